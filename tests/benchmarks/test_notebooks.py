"""The notebooks are the pages, and were run from top to bottom."""

import json
import re
from typing import Any

import pytest

from benchmarks import notebooks


def stored(name: str) -> list[dict[str, Any]]:
    return json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text())["cells"]


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_the_notebook_is_the_page(name: str) -> None:
    page = (notebooks.DOCS / f"{name}.md").read_text()
    assert [(c["cell_type"], "".join(c["source"])) for c in stored(name)] == notebooks.cells(page)
    assert "{download}`" in page and f"notebooks/{name}.ipynb" in page


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_every_cell_ran_in_order_and_printed_what_the_page_says(name: str) -> None:
    code = [c for c in stored(name) if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    printed = ["".join("".join(o["text"]) for o in c["outputs"] if o.get("name") == "stdout") for c in code]
    page = (notebooks.DOCS / f"{name}.md").read_text()
    said = re.findall(r"^```output\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert said and [text for text in printed if text] == said


def test_links_lead_out_of_the_folder_and_outputs_leave_the_text() -> None:
    page = "a [b](c.md#d), [e](https://f) and [g](#h)\n\n```python\nprint(1)\n```\n\n```output\n1\n```\n\nz\n"
    assert notebooks.cells(page) == [
        ("markdown", "a [b](../c.md#d), [e](https://f) and [g](#h)"), ("code", "print(1)"), ("markdown", "z"),
    ]  # fmt: skip
