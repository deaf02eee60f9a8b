"""Names and their typos, trees and overrides: what `document` does before any schema is known."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikecredit.training.document import ConfigError, Node, apply_override, edits, got, nearest, read, write


def test_nearest_and_edits() -> None:
    assert [edits("tua", "tau"), edits("", "abc"), edits("abc", "abc"), edits("kitten", "sitting")] == [1, 3, 0, 3]
    assert nearest("TAU", ["tau", "theta"]) == "; did you mean 'tau'?"
    assert nearest("surrogate_function", ["tau", "surrogate"]) == "; did you mean 'surrogate'?"
    assert nearest("zzz", ["tau", "theta"]) == "; known: tau, theta"
    assert nearest("zzz", []) == "; none is known"


@given(st.text("abc", max_size=5), st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_edits_is_symmetric_and_bounded(a: str, b: str, c: str) -> None:
    assert edits(a, b) == edits(b, a) and (edits(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= edits(a, b) <= max(len(a), len(b))
    assert edits(a + c, b + c) <= edits(a, b)


def plain(node: Node) -> object:
    """A tree without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def test_every_value_knows_its_line() -> None:
    root = read("a: 1\nb:\n  c: [x,\n      y]\n", "f.yaml")
    assert plain(root) == {"a": 1, "b": {"c": ["x", "y"]}}
    assert root.value["a"].where == "f.yaml:1" and root.value["b"].where == "f.yaml:2"
    inner = root.value["b"].value["c"]
    assert (inner.where, [item.where for item in inner.value]) == ("f.yaml:3", ["f.yaml:3", "f.yaml:4"])


def test_a_mapping_and_a_file_read_alike(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [1, {b: null}]")
    assert (
        plain(read(tmp_path / "x.yaml", None)) == plain(read({"a": (1, {"b": None})}, None)) == {"a": [1, {"b": None}]}
    )
    assert read({"a": 1}, None).value["a"].where == "configuration"


def test_numbers_are_those_of_yaml_1_2() -> None:
    assert plain(read("[1e-3, .5, -2E4, .inf, 1_000, '1e-3']", "f")) == [1e-3, 0.5, -2e4, float("inf"), 1000, "1e-3"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="ascii"))


@given(st.lists(SCALARS | st.sampled_from(["1e-3", ".5", "no", "010", "1:30", "NaN", "2026-01-01", "~", "-"])))
def test_what_is_written_is_read_back(values: list[object]) -> None:
    again = plain(read(write({"a": values}), "f"))
    assert again == {"a": values} and [type(v) for v in again["a"]] == [type(v) for v in values]  # type: ignore[index]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=2", {"a": 2, "b": "short", "c": [1, 2], "d": None}),
        ("b.x=2", {"a": 1, "b": {"kind": "short", "x": 2}, "c": [1, 2], "d": None}),
        ("c.1=[3]", {"a": 1, "b": "short", "c": [1, [3]], "d": None}),
        ("d.e.f=x=y", {"a": 1, "b": "short", "c": [1, 2], "d": {"e": {"f": "x=y"}}}),
        ("new={k: 1e2}", {"a": 1, "b": "short", "c": [1, 2], "d": None, "new": {"k": 100.0}}),
    ],
)
def test_an_override_changes_one_value_and_names_itself(override: str, expected: object) -> None:
    root = read("a: 1\nb: short\nc: [1, 2]\nd:", "f.yaml")
    apply_override(root, override)
    assert plain(root) == expected
    with pytest.raises(ConfigError, match="which has no 'x'"):
        apply_override(root, "a.x.y=1")


def test_what_was_given_in_words() -> None:
    texts = ["1", "x", "true", "no", "", "[1, 2]", "{a: 1}", "'1'"]
    assert [got(read(text, "f")) for text in texts] == [
        "1", "text 'x'", "true", "false (YAML's 'no'; quote it to make it text)", "nothing (null)", "a list of 2",
        "a mapping", "text '1'",
    ]  # fmt: skip
