"""The doctor: a broken package, a missing one, a wrong gradient and damaged data are each found and named."""

import math
from pathlib import Path

import pytest
import torch

from spikecredit.training import doctor


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Put a module with this text in front of all others, here and in the doctor's processes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    return make


def test_everything_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def imports(package: str, use: str, missing: str) -> doctor.Finding:
        asked.append((package, missing))
        return "ok", f"{package}: {use}"

    monkeypatch.setattr(doctor, "_imports", imports)
    found = list(doctor.examine())
    needed = {package for package, missing in asked if missing == "fail"}
    assert needed == {"yaml", "safetensors", "click", "tqdm", "numba"}
    assert {package for package, missing in asked if missing == "note"} >= set(doctor.OPTIONAL)
    assert not [text for status, text in found if status == "fail"]
    assert f"torch {torch.__version__}" in found[0][1] and "embedded digits: 1150 + 287 + 360 images" in found[-1][1]


def test_what_is_needed_is_what_pyproject_says() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {requirement.split(">=")[0] for requirement in project["dependencies"]}
    assert names == {"torch", "numpy", "pyyaml", "safetensors", "click", "tqdm", "numba"}
    for use in doctor.OPTIONAL.values():  # every extra that the doctor advises exists
        if "(extra: " in use:
            assert use.split("(extra: ")[1].rstrip(")") in project["optional-dependencies"]


def test_an_import_is_tried_in_a_process_of_its_own(fake) -> None:  # type: ignore[no-untyped-def]
    fake("healthy_part", "")
    assert doctor._imports("healthy_part", "a use", "note") == ("ok", "healthy_part without metadata: a use")
    fake("broken_part", "raise RuntimeError('no wheel for this machine')")
    status, text = doctor._imports("broken_part", "a use", "note")
    assert status == "fail" and "does not import: RuntimeError: no wheel for this machine" in text
    fake("crashing_part", "import os; os.abort()")
    assert doctor._imports("crashing_part", "a use", "note")[0] == "fail"
    assert doctor._imports("absent_part", "a use", "note") == ("note", "absent_part is not installed: a use")
    assert doctor._imports("absent_part", "needed", "fail")[0] == "fail"


def test_brian2_with_a_numpy_too_new_is_explained(fake) -> None:  # type: ignore[no-untyped-def]
    fake("brian2", "raise AttributeError(\"'numpy.ndarray' object has no attribute 'ptp'\")")
    status, text = doctor._imports("brian2", "circuits", "note")
    assert status == "fail" and text.endswith("Brian2 2.9 needs numpy < 2.4: pip install 'numpy<2.4'")


def test_a_broken_torchvision_is_named_because_others_stumble_over_it(fake) -> None:  # type: ignore[no-untyped-def]
    import importlib.util

    if importlib.util.find_spec("torchvision") is None:
        assert list(doctor._torchvision()) == []
    fake("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    ((status, text),) = doctor._torchvision()
    assert status == "fail" and "nms does not exist" in text and text.endswith("pip uninstall torchvision")
    fake("torchvision", "")
    ((status, text),) = doctor._torchvision()
    assert status == "ok" and "uninstall" not in text


def test_versions_are_those_of_the_distributions() -> None:
    import yaml

    assert doctor._version("yaml") == yaml.__version__
    assert doctor._version("torch").split("+")[0] == torch.__version__.split("+")[0]


def test_the_gradient_is_checked_and_a_wrong_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = doctor._gradient()
    assert status == "ok" and "float64" in text
    import spikecredit.neurons as neurons

    real = neurons.lif_loop
    monkeypatch.setattr(neurons, "lif_loop", lambda x, *rest: real(x * (1 + 1e-9), *rest))
    assert doctor._gradient()[0] == "fail"
    assert math.isfinite(float(doctor._gradient()[1].split("by ")[1].split(" ")[0]))


def test_damaged_digits_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    import spikecredit.data as data

    def damaged(self: object) -> None:
        raise ValueError("bad magic number")

    monkeypatch.setattr(data.Digits, "load", damaged)
    assert doctor._digits() == ("fail", "embedded digits: bad magic number")
