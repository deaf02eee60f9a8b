"""What `spikecredit doctor` looks at: the traps of this field's packages, and whether the core computes."""

import importlib
import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Iterator

import torch

Finding = tuple[str, str]
"""("ok" | "note" | "fail", a sentence)."""

OPTIONAL = {
    "matplotlib": "plots and reports (extra: plot)",
    "datasets": "hub data sets by name (extra: vision)",
    "PIL": "decoding images (extra: vision)",
    "brian2": "circuits (extra: brian)",
    "snntorch": "exchange with snnTorch (extra: snntorch)",
    "tensorboard": "--tensorboard (extra: tensorboard)",
}


def examine() -> Iterator[Finding]:
    """All findings, in order."""
    yield "ok", f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        yield "ok", f"CUDA device {torch.cuda.get_device_name()}"
    else:
        yield "note", "no CUDA device: training runs on the CPU"
    for package in ("yaml", "safetensors", "click", "tqdm", "numba"):
        yield _imports(package, "needed", missing="fail")
    for package, use in OPTIONAL.items():
        yield _imports(package, use, missing="note")
    yield from _torchvision()
    yield _gradient()
    yield _digits()


def _version(package: str) -> str:
    name = {"yaml": "PyYAML", "PIL": "pillow"}.get(package, package)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "without metadata"


def _imports(package: str, use: str, missing: str) -> Finding:
    """Import in a process of its own: a package that crashes must not take the doctor with it."""
    if importlib.util.find_spec(package) is None:
        return missing, f"{package} is not installed: {use}"
    done = subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, text=True)
    if done.returncode == 0:
        return "ok", f"{package} {_version(package)}: {use}"
    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if package == "brian2" and "ptp" in done.stderr:
        reason += "; Brian2 2.9 needs numpy < 2.4: pip install 'numpy<2.4'"
    return "fail", f"{package} {_version(package)} does not import: {reason}"


def _torchvision() -> Iterator[Finding]:
    if importlib.util.find_spec("torchvision") is None:
        return
    status, text = _imports("torchvision", "not used by spikecredit", "note")
    if status == "fail":
        text += ". Packages that find it break too (torchmetrics, BindsNET): pip uninstall torchvision"
    yield status, text


def _gradient() -> Finding:
    """The LIF's explicit adjoint against autograd through its plain loop, in float64."""
    from spikecredit.neurons import LIF, LIFState, lif_loop

    x = torch.linspace(-1, 2, 60, dtype=torch.float64).view(10, 2, 3).requires_grad_()
    neuron = LIF(tau=5.0)
    neuron.run(x)[1].square().sum().backward()
    assert x.grad is not None
    ours = x.grad.clone()
    x.grad.zero_()
    lif_loop(x, LIFState(torch.zeros(2, 3, dtype=torch.float64)), neuron.parameters_now())[1].square().sum().backward()
    error = float((ours - x.grad).abs().max())
    return ("ok" if error < 1e-12 else "fail"), f"gradient of the LIF differs from autograd's by {error:.1e} (float64)"


def _digits() -> Finding:
    from spikecredit.data import Digits

    try:
        data = Digits().load()
    except (OSError, ValueError) as error:
        return "fail", f"embedded digits: {error}"
    return "ok", f"embedded digits: {len(data.train)} + {len(data.validation)} + {len(data.test)} images"
