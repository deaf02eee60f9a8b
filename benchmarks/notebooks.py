"""The pages for those who come from Brian2 and snnTorch as executed notebooks.

    python -m benchmarks.notebooks

Each page of `PAGES` becomes docs/notebooks/PAGE.ipynb: its text, its Python blocks as cells, and what they print when
they run, in one kernel from top to bottom. The page stays the source; an `output` block of it is what its cell prints
(tests/test_docs.py), and gives way to the cell's own output. Needs the extra `docs`.
"""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "notebooks"
PAGES = ("coming-from-brian", "coming-from-snntorch")
BLOCK = re.compile(r"^```(python|output)\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- generated: ([\w.-]+) -->$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")
DOWNLOAD = re.compile(r"^.*\{download\}.*\n\n?", re.MULTILINE)


def cells(page: str) -> list[tuple[str, str]]:
    """A page as (kind, text): "markdown" or "code". Links are those of a file one folder deeper."""
    page = MARK.sub(lambda m: (DOCS / "generated" / m[1]).read_text().strip(), DOWNLOAD.sub("", page))
    found, end = [], 0
    for block in BLOCK.finditer(page):
        found.append(("markdown", page[end : block.start()]))
        if block[1] == "python":
            found.append(("code", block[2]))
        end = block.end()
    found.append(("markdown", page[end:]))
    texts = [(kind, text.strip("\n")) for kind, text in found]
    return [(kind, text if kind == "code" else LINK.sub(r"](../\1)", text)) for kind, text in texts if text]


def notebook(name: str) -> Any:
    """The notebook of a page, not run yet."""
    import nbformat

    made = nbformat.v4.new_notebook()
    made.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    new = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    for k, (kind, text) in enumerate(cells((DOCS / f"{name}.md").read_text())):
        cell = new[kind](text)
        cell["id"] = f"cell-{k}"  # a random one would differ at every run
        made.cells.append(cell)
    return made


def main() -> None:
    import nbformat
    from nbclient import NotebookClient

    FOLDER.mkdir(exist_ok=True)
    for name in PAGES:
        made = notebook(name)
        NotebookClient(made, timeout=600, kernel_name="python3", record_timing=False).execute()
        made.metadata.pop("language_info", None)  # the interpreter's version
        nbformat.write(made, FOLDER / f"{name}.ipynb")
        print(FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()
