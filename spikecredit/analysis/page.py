"""The parts of an HTML page with everything in it: figures, tables, text; written whole or not at all."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecredit.analysis import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "–"  # the typographer's sign for no value; a 0 would be a measurement

Table = Sequence[Mapping[str, Any]]  # rows, column -> value


class Figures:
    """Gives every figure of the page ids of its own."""

    def __init__(self) -> None:
        self.count = 0

    def figure(self, figure: "Figure", name: str, caption: str) -> str:
        """A numbered figure with its caption."""
        self.count += 1
        drawn = plots.svg(figure, label=f"{name}. {caption}", prefix=f"f{self.count}-")
        return (
            f'<figure><div class="plot">{drawn}</div>'
            f"<figcaption><b>Figure {self.count}. {escape(name)}.</b> {escape(caption)}</figcaption></figure>"
        )


def cell_text(value: Any) -> tuple[str, bool]:
    """Text of a table cell, and whether it is a number."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return MISSING, True
    if isinstance(value, bool | np.bool_):
        return ("yes" if value else "no"), False
    if isinstance(value, float | np.floating):
        return f"{value:.4g}", True
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {cell_text(v)[0]}" for k, v in value.items()), False
    text = str(value)
    return text, text[:1].isdigit() or text[:1] in "-−+±"  # numbers formatted by the caller


def html_table(rows: Table) -> str:
    """A table from rows, column -> value; columns of numbers stand right."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[cell_text(row.get(column)) for column in columns] for row in rows]
    right = [all(line[i][1] for line in cells) for i in range(len(columns))]
    marks = [' class="number"' if r else "" for r in right]
    head = "".join(f'<th scope="col"{m}>{escape(str(c))}</th>' for c, m in zip(columns, marks, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{m}>{escape(c)}</td>' for (c, _), m in zip(line, marks, strict=True))}</tr>"
        for line in cells
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def yaml_block(value: Mapping[str, Any]) -> str:
    """A mapping as YAML, as it stands in a configuration."""
    import yaml

    plain = json.loads(json.dumps(value, default=str))  # tuples and paths have no YAML of their own
    return f"<pre>{escape(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100))}</pre>"


def section(heading: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return f"<section><h2>{heading}</h2>{''.join(parts)}</section>"


def write_page(path: Path, title: str, intro: str, parts: Sequence[str]) -> Path:
    """The page, atomically: a temporary file beside, then one rename. Blank lines part the paragraphs of `intro`."""
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in intro.split("\n\n") if part.strip())
    body = "\n".join([f"<header><h1>{escape(title)}</h1>{paragraphs}</header>", "<main>", *parts, "</main>"])
    text = TEMPLATE.format(title=escape(title), style=STYLE, body=body)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1c1c1c; font: 16px/1.5 system-ui, sans-serif; }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid #d5d5d5; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
header p, figcaption { max-width: 95ch; margin: .5rem 0; }
small { color: #595959; font-size: .85em; font-weight: normal; }
.wide, .plot, pre { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.2rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e6e6; }
th { border-bottom-color: #777; vertical-align: bottom; }
.number { text-align: right; } td { white-space: nowrap; }
.dense table { font-size: .84rem; } .dense th, .dense td { padding-right: .8rem; }
.wrap td { white-space: normal; }
figure { margin: 1.6rem 0 2.2rem; }
figure svg { display: block; width: 100%; min-width: 640px; height: auto; }
figcaption { font-size: .9rem; color: #3a3a3a; }
details { border: 1px solid #d5d5d5; border-radius: 6px; margin: .7rem 0; padding: .5rem 1rem; }
summary { cursor: pointer; font-weight: 600; }
pre { background: #f5f5f5; border-radius: 6px; padding: .8rem 1rem; font-size: .82rem; line-height: 1.4;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  html { font-size: 11px; } body { font-size: 1rem; } header, main { max-width: none; padding: 0; }
  .wide, .plot, pre { overflow: visible; } figure svg { min-width: 0; } figure, tr, li { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .dense th, .dense td { padding-right: .5rem; }
}
"""

# The policy forbids the page every request, in case a label ever found a way to ask for one.
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
