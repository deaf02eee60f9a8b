"""The documentation is true: snippets run, commands parse, configurations load, links lead somewhere."""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
import types
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import spikecredit
from spikecredit.cli import find_config, find_configs, main
from spikecredit.training.document import ConfigError
from spikecredit.training.experiment import REGISTRIES, Experiment, load_experiment
from spikecredit.training.matrix import conditions
from spikecredit.training.schema import load

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FOLDERS = (DOCS, DOCS / "pathways", DOCS / "constraints", DOCS / "equilibrium", DOCS / "plasticity")
PAGES = [*sorted(p for folder in FOLDERS for p in folder.glob("*.md")), ROOT / "README.md"]
NAMES = [str(p.relative_to(ROOT)) for p in PAGES]


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first line."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in re.finditer(r"^(```+)([^\n`]*)\n(.*?)^\1[ ]*$", text, re.MULTILINE | re.DOTALL):
        found.append(Block(match[2].strip(), match[3], text.count("\n", 0, match.start(3)) + 1))
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^(```+)[^\n`]*\n.*?^\1[ ]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def run_page(text: str, file: str) -> None:
    """Run the python blocks in one namespace. An `output` block right after one is what it prints."""
    names: dict[str, object] = {"__name__": "__main__"}
    page = blocks(text)
    for index, block in enumerate(page):
        if block.language != "python":
            continue
        # Its place in the page, so that a traceback names the line there.
        code = compile("\n" * (block.line - 1) + block.text, file, "exec", dont_inherit=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if index + 1 < len(page) and page[index + 1].language == "output":
            assert printed.getvalue() == page[index + 1].text, f"{file}:{page[index + 1].line}"


def commands(text: str) -> list[list[str]]:
    """The arguments of every `$ spikecredit ...` in the console blocks."""
    lines = [
        line
        for block in blocks(text)
        if block.language in ("console", "bash", "sh")
        for line in block.text.splitlines()
    ]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [w[1:] for w in words if w and Path(w[0]).name == "spikecredit"]


def check_command(arguments: list[str]) -> None:
    """Parse as the program would, without running; a configuration must exist and take its overrides."""
    if not arguments or arguments[0].startswith("-"):
        with contextlib.suppress(click.exceptions.Exit), contextlib.redirect_stdout(io.StringIO()):
            main.make_context("spikecredit", list(arguments))
        return
    # With the program's own settings: click keeps a verb's help option, names and all, from its first parse.
    program = click.Context(main, **main.context_settings)
    verb = main.get_command(program, arguments[0])
    assert verb is not None, f"no verb {arguments[0]!r}"
    context = verb.make_context(arguments[0], arguments[1:], parent=program)
    what = context.params.get("what")
    if what not in (None, "configs"):
        from spikecredit.cli import catalogue, registries

        assert what in (*registries(), *catalogue(), "short-names")
    if verb.name == "compare" and context.params["resume"] is None:
        given = context.params
        sources, overrides = find_configs(given["words"])
        conditions(sources, given["pathway"], given["constraint"], given["seeds"], overrides, given["changes"])
    config = context.params.get("config")
    if config is not None and not config.startswith("runs/"):
        source = ROOT / config if (ROOT / config).is_file() else find_config(config)
        load_experiment(source, context.params["overrides"])


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as MyST and GitHub make them."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        kept = "".join(c for c in unicodedata.normalize("NFC", plain.lower()) if c.isalnum() or c in " -_'")
        found |= {kept.replace("'", "").replace(" ", "-"), kept.replace("'", "-").replace(" ", "-")}
    return found


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links and images of a page that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)) + re.findall(r'(?:src|href)="([^"]+)"', prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        where = (page.parent / path).resolve() if path else page
        if not where.exists() or (anchor and where.suffix == ".md" and anchor not in anchors(where.read_text("utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("name", NAMES)
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page((ROOT / name).read_text("utf-8"), name)


@pytest.mark.parametrize("name", NAMES)
def test_commands_parse(name: str) -> None:
    for arguments in commands((ROOT / name).read_text("utf-8")):
        check_command(arguments)


@pytest.mark.parametrize("name", NAMES)
def test_configurations_load(name: str) -> None:
    for block in blocks((ROOT / name).read_text("utf-8")):
        if block.language == "yaml":
            load(Experiment, block.text, REGISTRIES, file=f"{name}, block at line {block.line}")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    assert broken_links((ROOT / name).read_text("utf-8"), ROOT / name) == []


def test_the_checks_can_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_page("```python\nassert False\n```\n", "page.md")
    with pytest.raises(AssertionError):
        run_page("```python\nprint(1)\n```\n\n```output\n2\n```\n", "page.md")
    with pytest.raises(click.UsageError):
        check_command(["train", "demo", "--resumee"])
    with pytest.raises(ConfigError):
        check_command(["train", "demo", "neuron.tua=3"])
    with pytest.raises(click.ClickException):
        check_command(["train", "demmo"])
    with pytest.raises(ConfigError):
        check_command(["compare", "demo", "--pathway", "bakprop"])
    assert commands("```console\n$ .venv/bin/spikecredit list neurons\n$ make demo\n```\n") == [["list", "neurons"]]
    page = tmp_path / "page.md"
    page.write_text("# Here\n")
    assert broken_links("[a](page.md#here) [b](page.md#there) [c](gone.md) [d](https://x.org)", page) == [
        "page.md#there",
        "gone.md",
    ]


def test_every_public_name_is_in_the_api() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    assert [
        n for n in spikecredit.__all__ if not re.search(rf"(\.\. auto\w+:: (spikecredit\.)?|`sc\.){n}\b", text)
    ] == []


def test_every_kind_is_mentioned() -> None:
    text = "\n".join(p.read_text("utf-8") for p in DOCS.glob("*.md"))
    kinds = {kind for entries in REGISTRIES.values() for kind in entries}
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in text] == []


def test_every_page_is_in_a_toctree() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    listed = {
        line.strip() for block in blocks(index) if block.language == "{toctree}" for line in block.text.splitlines()
    }
    written = {p.relative_to(DOCS).with_suffix("").as_posix() for folder in FOLDERS for p in folder.glob("*.md")}
    assert written - {"index"} <= listed


def test_tests_named_as_evidence_exist() -> None:
    named = 0
    for line in (DOCS / "reliability.md").read_text("utf-8").splitlines():
        file = re.search(r"`(tests/[\w/]+\.py)`", line)
        if file:
            code = (ROOT / file[1]).read_text("utf-8")
            for name in re.findall(r"`(test_\w+)`", line):
                named += 1
                assert f"def {name}(" in code, f"{file[1]} has no {name}"
    assert named > 10


def test_a_generated_table_is_put_in_or_said_to_be_missing(tmp_path: Path) -> None:
    put_in = runpy.run_path(str(DOCS / "conf.py"))["put_in_generated"]
    put_in.__globals__["GENERATED"] = tmp_path
    app = types.SimpleNamespace(env=types.SimpleNamespace(note_dependency=lambda file: None))
    marks = re.findall(r"<!-- generated: .* -->", (DOCS / "reproduce.md").read_text("utf-8"))
    images = ("lenet_mnist", "lenet_fashion_mnist")
    names = ("demo", "accuracy", "accuracy_narrow", *images, "pathways", "layout", "published")
    assert marks == [f"<!-- generated: {name}.md -->" for name in names]
    (tmp_path / "demo.md").write_text("| a |\n|---|\n")
    page = ["\n\n".join(marks)]
    put_in(app, "reproduce", page)
    assert page == ["| a |\n|---|\n" + "\n\n*Not measured yet.*" * (len(names) - 1)]


def test_no_table_is_stale() -> None:
    """README and docs/generated hold what `python -m benchmarks.tables` makes of benchmarks/results."""
    from benchmarks.tables import outputs

    for path, text in outputs().items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: run python -m benchmarks.tables"


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "--keep-going",
            "-b",
            "html",
            "-d",
            tmp_path / "trees",
            DOCS,
            tmp_path / "html",
        ],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    for page in (tmp_path / "html").glob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|iframe|link)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', page.read_text("utf-8")
        )
        assert fetched == [], page.name
