"""The Triton backend against the plain loop: in Triton's interpreter, or on the GPU where there is one.

The interpreter runs a copy of the device code of its own, so that TRITON_INTERPRET is set for nobody else; it tells
nothing about the compiler, for which the last tests compile the kernels for an H100 without having one.
"""

import dataclasses
import importlib.util
import os
import re
import subprocess
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_oracles import FORMULAS, RESETS, randn

from benchmarks.gpu_checks_gradients import Factor, in_float64, sum_of_terms
from benchmarks.gpu_checks_gradients import check as check_gradients
from spikecredit.neurons import (
    SURROGATES,
    ALIFParameters,
    ALIFState,
    FastSigmoid,
    LIFParameters,
    LIFState,
    StraightThrough,
    Surrogate,
    alif_loop,
    lif_loop,
)
from spikecredit.neurons.kernels.flat import Decays, Membrane, State, segment_of
from spikecredit.neurons.kernels.reference import leaky_loop

triton = pytest.importorskip("triton", reason="Triton is not installed")

from spikecredit.neurons.kernels import triton as compiled  # noqa: E402
from spikecredit.neurons.kernels import triton_kernels  # noqa: E402

KERNELS = ("forward_kernel", "backward_kernel", "leaky_forward_kernel", "leaky_backward_kernel")
KIND = {surrogate: name for name, surrogate in SURROGATES.items()}
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
# NumPy, under Triton 3.6's interpreter
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
SHORT = 4  # K of most tests: several segments in few steps, as the interpreter takes 2 ms a step


def load(device_code: Path) -> types.ModuleType:
    """The backend over a device code read from a file, interpreted where there is no GPU."""
    with patch.dict(os.environ, {"TRITON_INTERPRET": "0" if GPU else "1"}):
        spec = importlib.util.spec_from_file_location("triton_kernels_copy", device_code)
        code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
    path = Path(compiled.__file__)
    copy = types.ModuleType("triton_backend_copy")
    exec(compile(path.read_text(), path, "exec"), copy.__dict__)
    for name in KERNELS:
        setattr(copy, name, getattr(code, name))
    copy.SEGMENT = SHORT
    return copy


backend = load(Path(triton_kernels.__file__))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """NumPy, under the interpreter, warns of what the lanes beyond the last neuron compute."""
    with np.errstate(all="ignore"):
        yield


@dataclasses.dataclass(frozen=True)
class Case:
    reset: str = "subtract"
    surrogate: Surrogate = FastSigmoid(5.0)
    refractory: int = 0
    detach: bool = True
    synapse: bool = False
    adapts: bool = False
    decays: str = "number"  # or "layer", "neuron": learned
    constant: bool = False
    strided: bool = False
    steps: int = 11
    n: int = 5
    dtype: torch.dtype = torch.float64
    used: tuple[str, ...] = ("spikes", "potentials", "last")  # by the loss
    drive: float = 0.4  # mean of the input
    theta: float = 0.9

    @property
    def state_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def draw(self, *shape: int, seed: int) -> torch.Tensor:
        return randn(*shape, seed=seed, dtype=self.state_dtype).to(DEVICE)

    def inputs(self) -> dict[str, torch.Tensor]:
        """The differentiable ones, as leaves: x, states on both sides of the threshold, learned decays."""
        x = (self.drive + 0.6 * self.draw(1 if self.constant else self.steps, self.n, seed=1)).to(self.dtype)
        leaves = {"x": x, "u": 0.8 + 0.5 * self.draw(self.n, seed=2)}
        if self.synapse:
            leaves["i"] = 0.3 * self.draw(self.n, seed=3)
        if self.adapts:
            leaves |= {"a": self.draw(self.n, seed=4).abs(), "r": (self.draw(self.n, seed=5) > 0).to(self.state_dtype)}
        if self.decays != "number":
            for k, name in enumerate(["beta", *(["alpha"] if self.synapse else []), *(["rho"] if self.adapts else [])]):
                shape = (self.n,) if self.decays == "neuron" else ()
                leaves[name] = 0.8 + 0.1 * self.draw(*shape, seed=6 + k).sigmoid()
        return {name: v.requires_grad_() for name, v in leaves.items()}

    def wait(self) -> torch.Tensor | None:
        if self.refractory <= 1:
            return None
        generator = torch.Generator().manual_seed(9)
        return torch.randint(0, self.refractory, (self.n,), generator=generator, dtype=torch.int32).to(DEVICE)

    def factors(self, leaves: dict[str, torch.Tensor]) -> Decays:
        numbers = {"beta": 0.83, "alpha": 0.71 if self.synapse else None, "rho": 0.77 if self.adapts else None}
        return Decays(*(leaves.get(name, number) for name, number in numbers.items()))

    def seeds(self) -> dict[str, torch.Tensor]:
        """Gradients of the results that the loss uses."""
        seeds = {"spikes": self.draw(self.steps, self.n, seed=11).to(self.dtype)} if "spikes" in self.used else {}
        if "potentials" in self.used:
            seeds["potentials"] = self.draw(self.steps, self.n, seed=12)
        if "last" in self.used:
            fields = ["u", *(["i"] if self.synapse else []), *(["a", "r"] if self.adapts else [])]
            seeds |= {f"last_{name}": self.draw(self.n, seed=13 + k) for k, name in enumerate(fields)}
        return seeds


Tensors = dict[str, torch.Tensor]


class Loop(NamedTuple):
    """The plain loop's results and loss, and its products with each learned decay, which are the terms' places."""

    results: Tensors
    loss: torch.Tensor
    uses: dict[str, list[torch.Tensor]]


def loop(case: Case, leaves: Tensors, seeds: Tensors) -> Loop:
    wait, uses = case.wait(), {name: [] for name in Decays._fields if name in leaves}
    decays = case.factors(leaves | {name: Factor(leaves[name], kept) for name, kept in uses.items()})
    x = leaves["x"].to(leaves["u"].dtype).expand(case.steps, case.n)
    current = leaves.get("i")
    if case.synapse:
        rows = []
        for x_t in x:
            current = current * decays.alpha + x_t
            rows.append(current)
        x = torch.stack(rows)
    if case.adapts:
        p = ALIFParameters(decays.beta, decays.rho, 0.3, case.theta, case.reset, case.surrogate, case.refractory,
                           case.detach)  # fmt: skip
        s, u, state = alif_loop(x, ALIFState(leaves["u"], leaves["a"], leaves["r"], wait), p)
    else:
        p = LIFParameters(decays.beta, case.theta, case.reset, case.surrogate, case.refractory, case.detach)
        s, u, state = lif_loop(x, LIFState(leaves["u"], wait), p)
    results = {
        "spikes": s.to(leaves["x"].dtype),
        "potentials": u,
        "last_u": state.u,
        "last_i": current,
        "last_a": getattr(state, "a", None),
        "last_r": getattr(state, "r", None),
        "last_wait": state.wait,
    }
    results = {name: v for name, v in results.items() if v is not None}
    return Loop(results, sum((results[name] * seed).sum() for name, seed in seeds.items()), uses)


def leaky(case: Case, leaves: Tensors, seeds: Tensors) -> Loop:
    """As `loop`, for leaky integration."""
    uses = {"beta": []} if "beta" in leaves else {}
    beta = Factor(leaves["beta"], uses["beta"]) if uses else 0.83
    u = leaky_loop(leaves["x"].to(leaves["u"].dtype).expand(case.steps, case.n), leaves["u"], beta)
    return Loop({"potentials": u}, (u * seeds["potentials"]).sum(), uses)


def gradients_of(loss: torch.Tensor, leaves: Tensors) -> Tensors:
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), **options), strict=True))


def reference(case: Case) -> tuple[Tensors, Tensors]:
    """Results and gradients of the plain loop and autograd."""
    leaves = case.inputs()
    results, loss, _ = loop(case, leaves, case.seeds())
    return {k: v.detach() for k, v in results.items()}, gradients_of(loss, leaves)


def padded(v: torch.Tensor) -> torch.Tensor:
    """The same values in rows that lie farther apart."""
    wide = v.new_full((v.shape[0], v.shape[1] + 3), torch.nan)
    wide[:, : v.shape[1]] = v
    return wide[:, : v.shape[1]]


def blank(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory whose old contents would be noticed."""
    return torch.full(shape, -7 if dtype == torch.int32 else torch.nan, dtype=dtype, device=DEVICE)


def fused(case: Case, backend: Any = backend) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Results and gradients of the backend, called as `ops.py` does."""
    t, n, d = case.steps, case.n, case.state_dtype
    leaves = {name: v.detach() for name, v in case.inputs().items()}
    wait, seeds = case.wait(), case.seeds()
    r = leaves.get("r")
    if r is None and wait is not None:
        r = (leaves["u"] > case.theta).to(d)
    state = State(leaves["u"], leaves.get("i"), leaves.get("a"), r, wait)
    x = leaves["x"].expand(t, n)
    if case.strided:
        x = padded(x)
        seeds |= {name: padded(seeds[name]) for name in ("spikes", "potentials") if name in seeds}
    decays = case.factors(leaves)
    m = Membrane(
        case.theta, 0.3 if case.adapts else 0.0, case.reset, case.refractory, KIND[type(case.surrogate)],
        dataclasses.astuple(case.surrogate), case.detach,
    )  # fmt: skip
    spikes, potentials = blank(t, n, dtype=case.dtype), blank(t, n, dtype=d)
    fields = sum(v is not None for v in state)
    checkpoints = blank((t - 1) // backend.SEGMENT, fields, n, dtype=d) if t > backend.SEGMENT else None
    last = State(*(None if v is None else blank(n, dtype=v.dtype) for v in state))
    backend.forward(x, state, decays, m, spikes, potentials, checkpoints, last)
    results = {"spikes": spikes, "potentials": potentials}
    results |= {f"last_{k}": v for k, v in last._asdict().items() if v is not None and (k != "r" or case.adapts)}

    if case.used == ("spikes",):  # neither potentials nor checkpoints: another kernel, the same spikes
        unasked = blank(t, n, dtype=case.dtype)
        backend.forward(x, state, decays, m, unasked, None, None, last)
        assert torch.equal(unasked, spikes)

    derived = not case.adapts and not case.detach and case.reset != "none"
    g_x = blank(1 if case.constant else t, n, dtype=case.dtype)
    g_state = State(*(blank(n, dtype=d) if name in leaves or (name == "r" and derived) else None for name in "uiar"))
    g_decays = Decays(*(blank(n, dtype=d) if name in leaves else None for name in Decays._fields))
    g_s = seeds.get("spikes")
    if g_s is None and "potentials" not in seeds:
        g_s = torch.zeros(t, n, dtype=case.dtype, device=DEVICE)
    g_last = State(*(seeds.get(f"last_{name}") for name in "uiar"))
    backend.backward(x, state, decays, m, checkpoints, g_s, seeds.get("potentials"), g_last, g_x, g_state, g_decays)
    if derived:
        g_state.u.addcmul_(g_state.r, case.surrogate.derivative(state.u - case.theta))
    gradients = {"x": g_x} | {k: v for k, v in (g_state._asdict() | g_decays._asdict()).items() if v is not None}
    if derived:
        del gradients["r"]
    return results, {k: v.sum_to_size(leaves[k].shape) for k, v in gradients.items()}


def compare(case: Case, loop: Callable[[Case, Tensors, Tensors], Loop], results: Tensors, gradients: Tensors) -> None:
    """Results equal bit for bit; gradients in the sense of `gpu_checks_gradients`."""
    leaves, seeds = case.inputs(), case.seeds()
    expected, loss, uses = loop(case, leaves, seeds)
    assert results.keys() == expected.keys()
    for name, v in expected.items():
        torch.testing.assert_close(results[name], v, rtol=0, atol=0, equal_nan=True, msg=lambda m, k=name: f"{k}: {m}")
    terms = {}
    for name, kept in uses.items():
        each = gradients_of(loss, dict(enumerate(kept)))
        terms[name] = sum_of_terms(list(each.values()), leaves[name].shape)

    def exact() -> Tensors:
        wide = {name: v.detach().double().requires_grad_() for name, v in leaves.items()}
        wide_seeds = {name: v.double() for name, v in seeds.items()}
        twin = in_float64(lambda: loop(case, leaves, seeds), lambda: loop(case, wide, wide_seeds))
        return gradients_of(twin.loss, wide)

    check_gradients(gradients, gradients_of(loss, leaves), terms, exact)


def check(case: Case, backend: Any = backend) -> None:
    compare(case, loop, *fused(case, backend))


# ---- against the plain loop


@pytest.mark.parametrize("refractory", [0, 3])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_equals_the_loop(reset, detach, refractory):
    for adapts, synapse, decays in ((False, False, "layer"), (True, False, "neuron"), (False, True, "neuron")):
        check(Case(reset, refractory=refractory, detach=detach, adapts=adapts, synapse=synapse, decays=decays))
    check(Case(reset, refractory=refractory, detach=detach, adapts=True, synapse=True, dtype=torch.float32))


@pytest.mark.parametrize("surrogate", FORMULAS, ids=lambda s: type(s).__name__)
def test_surrogates(surrogate):
    for case in (Case(surrogate=surrogate), Case(surrogate=surrogate, detach=False, reset="zero", dtype=torch.float32)):
        check(dataclasses.replace(case, steps=5))


def test_straight_through_of_any_width():
    check(Case(surrogate=StraightThrough(), steps=5, detach=False))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_lengths_around_the_segments(steps):
    check(Case(steps=steps, adapts=True, refractory=2))
    check(Case(steps=steps, detach=False, n=1))


@pytest.mark.parametrize("steps", [15, 16, 33, 70])
def test_the_real_segments(steps, monkeypatch):
    assert segment_of("triton") == compiled.SEGMENT
    monkeypatch.setattr(backend, "SEGMENT", compiled.SEGMENT)
    check(Case(steps=steps, dtype=torch.float32))
    check(Case(steps=steps, adapts=True, refractory=3, reset="zero", detach=False, decays="layer"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_three_hundred_steps(dtype, monkeypatch):
    monkeypatch.setattr(backend, "SEGMENT", compiled.SEGMENT)
    single = dtype == torch.float32
    check(Case(steps=300, n=3, adapts=single, synapse=not single, detach=single, decays="layer", dtype=dtype))


@pytest.mark.parametrize("decays", ["number", "neuron"])
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_constant_input(steps, decays):
    check(Case(steps=steps, constant=True, decays=decays, synapse=True))
    check(Case(steps=steps, constant=True, decays=decays, dtype=torch.bfloat16))


def test_strided_input_and_gradients():
    check(Case(strided=True, decays="neuron", refractory=2))


@pytest.mark.parametrize("used", ["spikes", "potentials", "last"])
def test_a_loss_on_one_result_alone(used):
    for adapts in (True, False):
        for detach in (True, False):
            check(Case(used=(used,), adapts=adapts, detach=detach, refractory=2, steps=6))
        check(Case(used=(used,), adapts=adapts, steps=6))


@pytest.mark.parametrize("drive", [-5.0, 5.0])
@pytest.mark.parametrize("reset", RESETS)
def test_all_silent_and_all_firing(reset, drive):
    case = Case(reset, drive=drive, dtype=torch.float32, decays="layer", steps=6)
    assert reference(case)[0]["spikes"][1:].unique().tolist() == [float(drive > 0)]
    check(case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_input_has_a_32_bit_state(dtype):
    for case in (Case(dtype=dtype, n=40), Case(dtype=dtype, n=40, adapts=True, refractory=2, detach=False)):
        check(case)
        if GPU or dtype == torch.float16:  # to bfloat16 the interpreter truncates; the compiler is asked below
            # rounded once: mostly the very number that rounding the float32 gradient gives
            (_, ours), (_, expected) = fused(case), reference(case)
            assert (ours["x"] == expected["x"]).double().mean() > 0.99


def test_several_programs():
    # as many neurons as 2 1/2 programs have, and as a single neuron
    check(Case(n=320, steps=5, dtype=torch.float32, decays="neuron", adapts=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_neurons_a_lane(dtype, monkeypatch):
    monkeypatch.setattr(backend, "FEW", 0)
    check(Case(n=300, steps=6, dtype=dtype, decays="neuron"))


def test_nothing_to_do():
    empty = torch.empty(3, 0)
    m = Membrane(1.0, 0.0, "subtract", 0, "fast_sigmoid", (25.0,), True)
    state, none = State(torch.empty(0)), State(None)
    backend.forward(empty, state, Decays(0.9), m, empty, None, None, state)
    backend.backward(empty, state, Decays(0.9), m, None, empty, None, none, empty, state, Decays(None))
    backend.leaky_forward(empty, state.u, 0.9, empty)
    backend.leaky_backward(empty, state.u, 0.9, None, empty, state.u, None)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reset", RESETS)
def test_not_a_number_stays_in_its_neuron(reset, bad):
    class Spoilt(Case):
        def inputs(self):
            leaves = super().inputs()
            with torch.no_grad():
                leaves["x"][2, 1] = bad
                leaves["u"][3] = bad
            return leaves

    for detach in (True, False):
        case = Spoilt(reset, detach=detach, refractory=2, adapts=True, steps=6)
        check(case)
        assert fused(case)[1]["x"][:, [0, 2, 4]].isfinite().all()


@settings(max_examples=25)
@given(
    case=st.builds(
        Case,
        reset=st.sampled_from(RESETS),
        surrogate=st.sampled_from(list(FORMULAS)),
        refractory=st.integers(0, 4),
        detach=st.booleans(),
        synapse=st.booleans(),
        adapts=st.booleans(),
        decays=st.sampled_from(["number", "layer", "neuron"]),
        constant=st.booleans(),
        strided=st.booleans(),
        steps=st.integers(1, 10),
        n=st.integers(1, 9),
        dtype=st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16]),
        used=st.sets(st.sampled_from(["spikes", "potentials", "last"]), min_size=1).map(tuple),
        theta=st.sampled_from([0.3, 1.0, 2]),
    )
)
def test_any_neuron(case):
    check(case)


# ---- leaky integration


def check_leaky(steps, dtype=torch.float64, decays="neuron", constant=False, strided=False, n=5):
    case = Case(steps=steps, dtype=dtype, decays=decays, constant=constant, n=n, used=("potentials",))
    d, leaves, seed = case.state_dtype, case.inputs(), case.seeds()["potentials"]
    leaves = {k: v.detach() for k, v in leaves.items()}
    beta = leaves.get("beta", 0.83)
    x = leaves["x"].expand(steps, n)
    if strided:
        x, seed = padded(x), padded(seed)
    potentials = blank(steps, n, dtype=d)
    backend.leaky_forward(x, leaves["u"], beta, potentials)
    gradients = {"x": blank(1 if constant else steps, n, dtype=dtype), "u": blank(n, dtype=d)}
    if decays != "number":
        gradients["beta"] = blank(n, dtype=d)
    g_beta = gradients.get("beta")
    backend.leaky_backward(
        seed, leaves["u"], beta, None if g_beta is None else potentials, gradients["x"], gradients["u"], g_beta
    )
    gradients = {k: v.sum_to_size(leaves[k].shape) for k, v in gradients.items()}
    compare(case, leaky, {"potentials": potentials}, gradients)


@pytest.mark.parametrize("decays", ["number", "layer", "neuron"])
@pytest.mark.parametrize("steps", [1, 4, 5, 11])
def test_leaky_integration(steps, decays):
    check_leaky(steps, decays=decays)
    check_leaky(steps, torch.float32, decays, strided=True)


def test_leaky_integration_of_other_inputs():
    check_leaky(9, constant=True)
    check_leaky(9, torch.bfloat16, n=140)


def test_leaky_integration_over_three_hundred_steps(monkeypatch):
    monkeypatch.setattr(backend, "SEGMENT", compiled.SEGMENT)
    check_leaky(300, torch.float32)


# ---- mutants: a comparison that accepts them tests nothing

MUTANTS = {
    "dropped (1 - r) of reset to zero": ("v = (1.0 - r) * u * beta", "v = u * beta", Case("zero")),
    "dropped it backwards": ("g_next = g_next * (1.0 - r_all[t])", "g_next = g_next", Case("zero")),
    "no gradient to tau through the reset": (
        "source = before * (1.0 - r_all[t])", "source = before", Case("zero", decays="layer")),
    "forgot -theta psi of the attached reset": ("k_t = -live * theta", "k_t = -live * 0.0", Case(detach=False)),
    "input arrives while refractory": (
        "live = tl.where(held_all[t], 0.0, g_t)", "live = g_t", Case(refractory=3)),
    "no identity through the refractory period": (
        "g_next = tl.where(held_all[t], g_t, g_next)", "g_next = g_next", Case(refractory=3)),
    "a pending reset is forgotten": (
        "k_t = tl.where(held_all[t], k, k_t)", "k_t = k_t", Case(refractory=3, adapts=True, detach=False)),
    "the adaptation does not lower the spikes": ("rho * h - b * q", "rho * h", Case(adapts=True)),
    "wrong step of the adaptation": ("h * a_all[t], exists", "h * a_all[0], exists", Case(adapts=True, decays="layer")),
    "wrong step of the current": ("di_t * i_all[t]", "di_t * i_all[0]", Case(synapse=True, decays="layer")),
    "missing steps count": ("new = tl.where(live, new, old)", "new = new", Case()),
    "the last checkpoint again": ("(c.to(tl.int64) - 1) * FIELDS", "(c.to(tl.int64) - 1) * 0", Case()),
    "a rounded threshold": ("theta = tl.full((), theta, D)", "theta = tl.full((), theta, tl.float32).to(D)", Case()),
    "psi wrong by a hundred thousandth": (
        "psi = 1.0 / (root * root)", "psi = 1.00001 / (root * root)", Case(dtype=torch.float32)),
    "one surrogate for another": ("1.0 / (root * root)", "1.0 / root", Case()),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_noticed(name, tmp_path):
    old, new, case = MUTANTS[name]
    text = Path(triton_kernels.__file__).read_text()
    assert old in text, f"the kernels no longer contain {old!r}"
    (tmp_path / "kernels.py").write_text(text.replace(old, new))
    check(case)
    with pytest.raises(AssertionError):
        check(case, load(tmp_path / "kernels.py"))


# ---- the compiler

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Compiler:
    """Stands for a kernel; a launch compiles it for an H100 as Triton's own launcher would, and runs nothing."""

    def __init__(self, kernel):
        self.kernel, self.result = kernel, None

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *values, **options):
        signature, constants, attributes = {}, {}, {}
        for k, (p, value) in enumerate(zip(self.kernel.params, values, strict=True)):
            if p.is_constexpr or value is None:
                signature[p.name], constants[p.name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[p.name] = (
                    "*"
                    + {
                        torch.int32: "i32",
                        torch.float32: "fp32",
                        torch.float64: "fp64",
                        torch.bfloat16: "bf16",
                        torch.float16: "fp16",
                    }[value.dtype]
                )
                attributes[k,] = [["tt.divisibility", 16]]
            elif isinstance(value, float) or p.annotation_type:
                assert p.annotation_type == "fp64"
                signature[p.name] = "fp64"
            else:
                signature[p.name] = "i32"
                if value % 16 == 0 and not p.do_not_specialize:
                    attributes[k,] = [["tt.divisibility", 16]]
        source = triton.compiler.ASTSource(self.kernel, signature, constants, attributes)
        target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
        self.result = triton.compile(source, target=target, options=options)


def compile_backend(case: Case, monkeypatch, tmp_path, n: int = 2**17) -> dict[str, Any]:
    """The compiled forward and backward kernels of a case with many neurons."""
    if not (BIN / "ptxas").exists():
        pytest.skip("this Triton has no ptxas")
    if not hasattr(compiled.forward_kernel, "params"):
        pytest.skip("TRITON_INTERPRET is set: the kernels cannot be compiled")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compilers = {name: Compiler(getattr(compiled, name)) for name in KERNELS}
    for name, compiler in compilers.items():
        monkeypatch.setattr(compiled, name, compiler)

    def meta(*shape, dtype=case.state_dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    def row(wanted):
        return meta(n) if wanted else None

    t = case.steps
    r = row(case.adapts or case.refractory > 1)
    wait = meta(n, dtype=torch.int32) if case.refractory > 1 else None
    state = State(row(True), row(case.synapse), row(case.adapts), r, wait)
    learned = case.decays != "number"
    decays = Decays(*(row(True) if learned and wanted else 0.9 for wanted in (True, case.synapse, case.adapts)))
    m = Membrane(1.0, 0.3, case.reset, case.refractory, KIND[type(case.surrogate)],
                 dataclasses.astuple(case.surrogate), case.detach)  # fmt: skip
    x = meta(t, n, dtype=case.dtype)
    if case.constant:
        x = x[:1].expand(t, n)
    checkpoints = meta(1, sum(v is not None for v in state), n) if t > compiled.SEGMENT else None
    compiled.forward(x, state, decays, m, meta(t, n, dtype=case.dtype), None, checkpoints, state)
    compiled.backward(
        x, state, decays, m, checkpoints,
        meta(t, n, dtype=case.dtype) if "spikes" in case.used else None,
        meta(t, n) if "potentials" in case.used else None,
        State(row("last" in case.used), None, row(case.adapts and "last" in case.used)),
        meta(1 if case.constant else t, n, dtype=case.dtype), state._replace(wait=None),
        Decays(row(learned), row(learned and case.synapse), row(learned and case.adapts)),
    )  # fmt: skip
    if not case.adapts:
        compiled.leaky_forward(x, state.u, decays.beta, meta(t, n))
        compiled.leaky_backward(meta(t, n), state.u, decays.beta, meta(t, n), x[:1], state.u, state.u)
    return {name: compiler.result for name, compiler in compilers.items() if compiler.result is not None}


PLAIN = Case(used=("spikes",), steps=25, dtype=torch.float32)
COMPILED = {
    "plain": PLAIN,
    "16 bits": dataclasses.replace(PLAIN, dtype=torch.bfloat16, steps=4, reset="zero"),
    "float64": dataclasses.replace(PLAIN, dtype=torch.float64, steps=6, detach=False, decays="neuron"),
    "constant": dataclasses.replace(PLAIN, steps=6, constant=True, synapse=True, decays="neuron"),
    "adaptive": dataclasses.replace(PLAIN, adapts=True, surrogate=list(FORMULAS)[2]),
    "everything": dataclasses.replace(
        PLAIN, adapts=True, refractory=3, reset="zero", detach=False, decays="neuron", used=Case().used
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_the_kernels_compile_for_an_h100(name, monkeypatch, tmp_path):
    case = COMPILED[name]
    for kernel_name, kernel in compile_backend(case, monkeypatch, tmp_path).items():
        ptx = kernel.asm["ptx"]
        # no exchange of values between threads, which a change of layout would need
        assert kernel.metadata.shared == 0 and "bar.sync" not in ptx
        if case.state_dtype == torch.float32 or kernel_name == "forward_kernel":
            # a fused multiply-add or a flushed denormal would make the potentials differ from the reference's
            assert not re.search(r"\bfma\.", ptx)
            assert re.search(r"\bmul\.(rn\.)?f(32|64)", ptx)
        if kernel_name != "backward_kernel":
            assert ".ftz" not in ptx
        if kernel_name == "backward_kernel" and case.dtype == torch.bfloat16:
            assert re.search(r"cvt\.rn\.bf16", ptx) and not re.search(r"cvt\.r[zmp]\S*\.bf16", ptx)
        if case is PLAIN:
            assert "ld.global.v2.b32" in ptx and "st.global.v2.b32" in ptx
        usage = registers(kernel, tmp_path)
        assert re.search(r"REG:\d+ STACK:0 ", usage), f"{kernel_name} spills: {usage}"


def registers(kernel, tmp_path) -> str:
    """What the kernel takes; without the tool that tells, what it takes without spilling."""
    if not (BIN / "cuobjdump").exists():
        return "REG:0 STACK:0 "
    (tmp_path / "cubin").write_bytes(kernel.asm["cubin"])
    command = [BIN / "cuobjdump", "-res-usage", tmp_path / "cubin"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
