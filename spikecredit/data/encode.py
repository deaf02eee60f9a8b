"""Encoders: still images or sequences of values -> input over time, time first.

Every encoder is a pure function and a small frozen object with the same name and the same options. Time is counted in
steps. Encode last: casts, moves to a device and arithmetic lose the time stride 0 of `constant`.

A wrong value range is refused on the CPU, where looking costs little. On an accelerator the look would stop the queue,
so it is left out there, and likewise under `torch.compile`: `needs_unit_range` says beforehand what an encoder needs.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

# snnTorch's margin: a value at the threshold is treated as threshold + EPSILON, because ln(x / 0) is infinite.
EPSILON = 1e-7


def _check(x: Tensor, name: str, unit_range: bool) -> None:
    if not x.is_floating_point():
        raise ValueError(
            f"{name}: the input has dtype {x.dtype}, expected floating point. "
            "Convert raw images first: data.normalise(batch), or data.normalise(batch, normalise=False) for [0, 1]."
        )
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.numel() == 0:
        return
    low, high = (v.item() for v in x.detach().aminmax())  # both are NaN as soon as one element is
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"{name}: the input contains NaN, expected numbers. Look for the step before that makes them.")
    if unit_range and (low < 0 or high > 1):
        raise ValueError(
            f"{name}: the input lies in [{low:.6g}, {high:.6g}], expected [0, 1]. "
            "Leave out the normalisation to zero mean: data.normalise(batch, normalise=False)."
        )


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}, expected a whole number of time steps, at least 1, such as steps=25.")


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}, expected a finite number above 0.")


def constant(x: Tensor, steps: int) -> Tensor:
    """The same input current at every step: y[t] = x.

    Args:
        x: (B, *N), floating point.
        steps: T.
    Returns:
        (T, B, *N), an expanded view of x with time stride 0: no memory is used and `Network` computes the layers before
        the first neuron once. It must not be written to.
    Raises:
        ValueError: x is not floating point or has NaN; steps < 1.
    """
    _check_steps(steps)
    _check(x, "constant", unit_range=False)
    return x.expand(steps, *x.shape)


def rate(x: Tensor, steps: int, gain: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Independent Bernoulli spikes: P(y[t] = 1) = clamp(gain x, 0, 1) at every step.

    Args:
        x: (B, *N) in [0, 1].
        steps: T.
        gain: spikes per step at x = 1 (saturates at one spike a step).
        generator: source of randomness, on x's device; None is torch's global one.
    Returns:
        spikes in {0, 1}, (T, B, *N), in x's dtype.
    Raises:
        ValueError: x outside [0, 1] (the message gives its minimum and maximum), NaN, not floating point; gain <= 0.
    Source: the code of snnTorch's `spikegen.rate`; the random numbers differ.
    """
    _check_steps(steps)
    _check_positive("gain", gain)
    _check(x, "rate", unit_range=True)
    # Drawn in float32 for every dtype of x: in bfloat16 uniform numbers have 256 levels and would bias small rates.
    noise = torch.rand((steps, *x.shape), generator=generator, device=x.device, dtype=torch.float32)
    return (noise < gain * x.float()).to(x.dtype)


def latency(x: Tensor, steps: int, tau: float | None = 5.0, threshold: float = 0.01, linear: bool = False) -> Tensor:
    """At most one spike a pixel, the earlier the brighter: when an RC circuit driven by x reaches the threshold.

    t(x) = tau ln(x / (x - threshold)),   or with linear=True   t(x) = tau (1 - x);   y[round(t)] = 1

    Pixels below the threshold never fire; neither do those whose rounded time lies beyond the last step. Mind the
    scale: with threshold 0.01, t falls to tau / 100 at x = 1 and most of the grey range shares the first steps; a
    higher threshold, a longer tau or linear=True spreads it.

    Args:
        x: (B, *N) in [0, 1].
        steps: T.
        tau: time constant in steps. None chooses the tau that puts the latest possible spike on the last step:
            (T - 1) / ln((threshold + 1e-7) / 1e-7), or T - 1 for the linear code.
        threshold: in (0, 1), the units of x.
        linear: the linear code instead of the logarithmic one.
    Returns:
        spikes in {0, 1}, (T, B, *N), in x's dtype.
    Raises:
        ValueError: x outside [0, 1], NaN, not floating point; tau <= 0; threshold outside (0, 1).
    Source: equal to snnTorch's `spikegen.latency(x, steps, tau=tau, threshold=threshold, linear=linear, clip=True,
        bypass=True)`; tau=None equals `normalize=True` there whenever the batch has a pixel at or below the threshold
        (snnTorch divides by the batch's own latest time, so that an image's code depends on its neighbours; ours not).
    """
    _check_steps(steps)
    if tau is not None:
        _check_positive("tau", tau)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold!r}, expected a number between 0 and 1, such as threshold=0.01.")
    _check(x, "latency", unit_range=True)
    value = x if x.dtype == torch.float64 else x.float()  # in half precision x - threshold would vanish
    if linear:
        scale = float(steps - 1) if tau is None else tau
        time = scale * (1 - value)
    else:
        charged = value.clamp_min(threshold + EPSILON)
        time = (charged / (charged - threshold)).log()
        if tau is None:
            # Rounded in value's own dtype like every pixel's time, so that the latest one lands exactly on T - 1.
            edge = value.new_full((), threshold + EPSILON)
            time = time * (steps - 1) / (edge / (edge - threshold)).log()
        else:
            time = tau * time
    step = time.round().to(torch.int64)
    fires = (value >= threshold) & (step < steps)
    spikes = torch.zeros((steps, *x.shape), dtype=x.dtype, device=x.device)
    return spikes.scatter_(0, step.clamp(0, steps - 1).unsqueeze(0), fires.to(x.dtype).unsqueeze(0))


def delta(sequence: Tensor, threshold: float = 0.1, off_spikes: bool = False) -> Tensor:
    """Delta modulation: a spike where the signal has risen by the threshold since the previous step.

    y[t] = H(x[t] - x[t-1] - threshold) with x[-1] = 0;   off_spikes: y[t] -= H(x[t-1] - x[t] - threshold);   H(0) = 1

    Args:
        sequence: x, (T, B, *N), any scale.
        threshold: in the units of x.
        off_spikes: also -1 where the signal has fallen by the threshold.
    Returns:
        (T, B, *N) in {0, 1}, or {-1, 0, 1} with off_spikes; in x's dtype.
    Raises:
        ValueError: not floating point, NaN, no time dimension, threshold <= 0.
    Source: equal to snnTorch's `spikegen.delta(x, threshold, off_spike=off_spikes)`.
    """
    _check_positive("threshold", threshold)
    if sequence.ndim == 0 or len(sequence) == 0:
        raise ValueError(f"delta: the input has shape {tuple(sequence.shape)}, expected (T, B, *N) with T >= 1.")
    _check(sequence, "delta", unit_range=False)
    change = torch.cat([sequence[:1], sequence[1:] - sequence[:-1]])
    spikes = (change >= threshold).to(sequence.dtype)
    return spikes - (change <= -threshold).to(sequence.dtype) if off_spikes else spikes


def rows(x: Tensor, repeats: int = 1) -> Tensor:
    """An image from top to bottom, one row after the other: y[t] = x[..., t // repeats, :].

    Sequential MNIST in its form by rows has repeats = 1: 28 steps of 28 pixels.

    Args:
        x: (B, C, H, W), floating point.
        repeats: steps that each row is shown.
    Returns:
        (H repeats, B, C, 1, W); for repeats = 1 a view of x.
    Raises:
        ValueError: x is no batch of images, not floating point, or has NaN; repeats < 1.
    """
    if x.ndim != 4:
        raise ValueError(f"rows takes images (B, C, H, W), got {tuple(x.shape)}; add the axes that are missing")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats={repeats!r}, expected a whole number of steps for each row, such as repeats=1")
    _check(x, "rows", unit_range=False)
    y = x.permute(2, 0, 1, 3).unsqueeze(3)
    return y if repeats == 1 else y.repeat_interleave(repeats, 0)


def on_off(x: Tensor) -> Tensor:
    """ON and OFF channels: max(x, 0) and max(-x, 0), as retinal ganglion cells tell light from dark.

    Inputs that are never negative can be neurons of one sign, as Dale's law asks (`Dale(sensory="excitatory")`).

    Args:
        x: (B, C, *N), centred at 0.
    Returns:
        (B, 2 C, *N): the ON channels, then the OFF channels.
    Raises:
        ValueError: x has no channels, is not floating point, or has NaN.
    """
    if x.ndim < 2:
        raise ValueError(f"on_off takes (B, C, ...), got {tuple(x.shape)}")
    _check(x, "on_off", unit_range=False)
    return torch.cat([x.clamp_min(0), -x.clamp_max(0)], 1)


class Encoder(ABC):
    """What is shown, over time: called with a batch, returns (T, B, *N)."""

    needs_unit_range: ClassVar[bool] = False  # wants [0, 1]: the normalisation to zero mean must be off
    needs_sequence: ClassVar[bool] = False  # takes (T, B, *N), not still images (B, *N)

    @abstractmethod
    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode x; only random encoders use the generator."""

    def shape(self, image: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of what a network sees at each step, for images of (C, H, W)."""
        return image


@dataclass(frozen=True)
class Constant(Encoder):
    """`constant` with its options: (B, *N) -> (T, B, *N)."""

    steps: int = 10

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return constant(x, self.steps)


@dataclass(frozen=True)
class Rate(Encoder):
    """`rate` with its options: (B, *N) in [0, 1] -> (T, B, *N)."""

    needs_unit_range: ClassVar[bool] = True
    steps: int = 25
    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_positive("gain", self.gain)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return rate(x, self.steps, self.gain, generator)


@dataclass(frozen=True)
class Latency(Encoder):
    """`latency` with its options: (B, *N) in [0, 1] -> (T, B, *N). tau in steps; None fits the last spike to T - 1."""

    needs_unit_range: ClassVar[bool] = True
    steps: int = 25
    tau: float | None = 5.0
    threshold: float = 0.01
    linear: bool = False

    def __post_init__(self) -> None:
        latency(torch.ones(1, 1), self.steps, self.tau, self.threshold)  # the same checks, before the first batch

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latency(x, self.steps, self.tau, self.threshold, self.linear)


@dataclass(frozen=True)
class Delta(Encoder):
    """`delta` with its options: (T, B, *N) -> (T, B, *N); a still image has no changes to encode and is refused."""

    needs_sequence: ClassVar[bool] = True
    threshold: float = 0.1
    off_spikes: bool = False

    def __post_init__(self) -> None:
        _check_positive("threshold", self.threshold)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        # Four dimensions could also be a sequence of (H, W) maps; the message says how to write that unambiguously.
        if x.ndim in (2, 4) or (x.ndim > 2 and x.stride(0) == 0 and len(x) > 1):
            raise ValueError(
                f"Delta encodes changes over time and got still images of shape {tuple(x.shape)}; it expects a "
                "sequence (T, B, N) or (T, B, C, H, W) that varies. For still images write Constant, Rate or Latency; "
                "a sequence of (T, B, H, W) maps needs its channel axis: x.unsqueeze(2)."
            )
        return delta(x, self.threshold, self.off_spikes)


@dataclass(frozen=True)
class Rows(Encoder):
    """`rows` with its options: (B, C, H, W) -> (H repeats, B, C, 1, W)."""

    repeats: int = 1

    def __post_init__(self) -> None:
        rows(torch.zeros(1, 1, 1, 1), self.repeats)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return rows(x, self.repeats)

    def shape(self, image: tuple[int, int, int]) -> tuple[int, int, int]:
        return image[0], 1, image[2]


ENCODERS: dict[str, type[Encoder]] = {
    "constant": Constant,
    "rate": Rate,
    "latency": Latency,
    "delta": Delta,
    "rows": Rows,
}
