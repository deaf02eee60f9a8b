"""The package as a whole: one version, the commands that the README promises, no traces of the machine it is from."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import spikecredit

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = ROOT / "spikecredit"
TEXTS = sorted(
    path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".yaml", ".md", ".mplstyle"} and path.is_file()
)


def test_one_version() -> None:
    assert spikecredit.__version__ == PROJECT["project"]["version"]


def test_all_public_names_exist_and_are_sorted() -> None:
    assert all(hasattr(spikecredit, name) for name in spikecredit.__all__)
    assert len(set(spikecredit.__all__)) == len(spikecredit.__all__)


def test_the_command_is_installed_as_declared() -> None:
    assert PROJECT["project"]["scripts"] == {"spikecredit": "spikecredit.cli:main"}
    from spikecredit.cli import main

    assert callable(main)


@pytest.mark.parametrize("target", ["demo", "test", "gpu", "docs", "lint"])
def test_make_has_its_targets(target: str) -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None and target in phony[1].split()
    assert re.search(rf"^{target}:.*\n\t", text, re.MULTILINE)  # and it does something


def test_ci_runs_what_the_readme_tells() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 and script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "make lint" in script.read_text() and "make test" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)


def test_constraints_pin_every_dependency() -> None:
    pins = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(name for extra in extras for name in extra)]
    names = {re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names <= pins, names - pins
    assert "pydantic" not in pins | names


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_path_of_this_machine_and_no_long_file(path: Path) -> None:
    text = path.read_text()
    for place in (str(ROOT), str(Path.home()), "/work/", "/root/", "/home/"):
        assert place not in text, place
    assert len(text.splitlines()) <= 500


def test_data_files_are_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["spikecredit"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    others = {p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".py"}
    assert others <= packaged, others - packaged


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert all(len(folder.relative_to(PACKAGE).parts) <= 2 for folder in folders)
