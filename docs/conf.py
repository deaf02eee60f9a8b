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
_SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Note|Shapes|Shape|Errors)( of [\w -]+)?:\s*$")
_REMARK = re.compile(r"(Source[\w -]*|Note|Errors|Shapes): (?=\S)")


def put_in_generated(app, docname, source):
    """Replace `<!-- generated: demo.md -->` by docs/generated/demo.md, or say that it is not there."""

    def found(match):
        file = GENERATED / match[1]
        app.env.note_dependency(str(file))
        return file.read_text(encoding="utf-8") if file.is_file() else "*Not measured yet.*"

    source[0] = _MARK.sub(found, source[0])


def plain_text_to_rst(app, what, name, obj, options, lines):
    """Our docstrings are plain text: `*N`, `|v|` and `W_+` are not markup. Runs before napoleon."""
    result = []
    for line in lines:
        parts = re.split(r"(`[^`]*`)", line)
        for index, part in enumerate(parts):
            if index % 2:
                parts[index] = f"`{part}`"  # code, as in Markdown
            else:
                parts[index] = re.sub(r"([*|\\])", r"\\\1", re.sub(r"_(?!\w)", r"\\_", part))
        line = "".join(parts)
        remark = _REMARK.match(line)
        if remark:  # a one-line section of ours: a paragraph of its own
            result += ["", f"**{remark[1]}:** {line[remark.end() :]}"]
        elif line.strip() in ("Shapes:", "Errors:"):
            result += ["", f"**{line.strip()}**", ""]
        else:
            if _SECTION.match(line) and result and result[-1].strip():
                result.append("")
            result.append(line)
    lines[:] = _dedent_continuations(result)


def _dedent_continuations(lines):
    """What follows a one-line remark or a bold heading is indented in the source; reST would make a quotation of it."""
    result, inside = [], False
    for line in lines:
        if line.startswith("**"):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        result.append(line.lstrip() if inside else line)
    return result


def setup(app):
    app.connect("source-read", put_in_generated)
    app.connect("autodoc-process-docstring", plain_text_to_rst, priority=100)
