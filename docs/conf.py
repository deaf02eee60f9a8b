"""Sphinx: furo, Markdown by MyST, docstrings by autodoc and napoleon. Builds offline; no page fetches anything."""

import re
from pathlib import Path

import spikecredit

project = "spikecredit"
author = "the spikecredit authors"
version = release = spikecredit.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "generated"]  # docs/generated is put into reproduce.md below

html_theme = "furo"
html_title = "spikecredit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autoclass_content = "class"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "literal"

GENERATED = Path(__file__).with_name("generated")
_MARK = re.compile(r"^<!-- generated: ([\w.-]+) -->$", re.MULTILINE)
_SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Note):\s*$")  # napoleon makes these
_REMARK = re.compile(r"(Source[\w -]*|Shapes|Errors):(?=\s|$)")  # ours: a paragraph under a bold word


def put_in_generated(app, docname, source):
    """Replace `<!-- generated: demo.md -->` by docs/generated/demo.md, or say that it is not there."""

    def found(match):
        file = GENERATED / match[1]
        app.env.note_dependency(str(file))
        return file.read_text(encoding="utf-8") if file.is_file() else "*Not measured yet.*"

    source[0] = _MARK.sub(found, source[0])


def plain_text_to_rest(app, what, name, obj, options, lines):
    """Our docstrings are plain text: `*N`, `|v|` and `W_+` are not markup. Runs before napoleon."""
    parts = re.split(r"`([^`]*)`", "\n".join(lines))
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = "``" + re.sub(r"\s*\n\s*", " ", part) + "``"  # code, as in Markdown
        else:
            text = re.sub(r"([|\\]|_(?!\w))", r"\\\1", part)
            parts[index] = re.sub(r"(?<![\w*])\*(\w+)\*(?![\w*])|\*", lambda m: m[0] if m[1] else r"\*", text)
    result, inside = [], False  # inside a section that napoleon reads
    for block in _blocks("".join(parts).split("\n")):
        inside = bool(_SECTION.match(block[0])) or (inside and block[0].startswith(" "))
        others = [line.strip() for line in block if line.strip().startswith("The others as in ")]  # no parameter's name
        block = [line for line in block if line.strip() not in others]
        result += [*(block if inside else _paragraph(block)), "", *others, ""]
    lines[:] = result


def _blocks(lines):
    """Parts of a docstring: cut at blank lines and before sections and remarks."""
    block = []
    for line in [*lines, ""]:
        if block and (not line.strip() or _SECTION.match(line) or _REMARK.match(line)):
            yield block
            block = []
        if line.strip():
            block.append(line)


def _paragraph(block):
    """Plain paragraphs as they are; equations line by line; hanging items as a list; remarks with a bold word."""
    remark = _REMARK.match(block[0])
    if remark:
        return [" ".join([f"**{remark[0]}**", block[0][remark.end() :].strip(), *(line.strip() for line in block[1:])])]
    indent = len(block[0]) - len(block[0].lstrip())
    if any(len(line) - len(line.lstrip()) > indent for line in block[1:]):
        items = []
        for line in block:
            if len(line) - len(line.lstrip()) > indent:
                items[-1] += " " + line.strip()
            else:
                items.append(f"* {line.strip()}")
        return items
    if len(block) > 1 and sum(" = " in line for line in block) > len(block) / 2:
        return [f"| {re.sub(r'   +', chr(0x2003), line.strip())}" for line in block]
    return block


def setup(app):
    """Sphinx calls this."""
    app.connect("source-read", put_in_generated)
    app.connect("autodoc-process-docstring", plain_text_to_rest, priority=100)
