"""The reading of pre x d(post)/dt as spike-timing-dependent plasticity: exact for exponential traces."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PairSTDP:
    """All-to-all pair STDP whose sum over spikes is the integral of the presynaptic trace times the change of the
    postsynaptic one.

    With traces x (of presynaptic spikes) and y (of postsynaptic ones) that jump by 1 at a spike and decay with tau_pre
    and tau_post,

        int x dy = sum over pairs W(t_post - t_pre) + A- x(T) y(T)

        W(d) = A+ exp(-d / tau_pre) for d > 0,  -A- exp(d / tau_post) for d < 0,  (A+ - A-) / 2 for d = 0
        A+ = tau_post / (tau_pre + tau_post),   A- = tau_pre / (tau_pre + tau_post)

    so that A+ tau_pre = A- tau_post: the window's area is 0. The last term is what pairs still lack when the time is
    up; it is 0 once the traces have died out. Spikes of one step count half as potentiation, half as depression, which
    is the midpoint rule for a product of two jumps: given to one side, stationary independent trains would drift.

    In both directions on one weight the windows cancel, W(d) + W'(-d) = 0 with the time constants exchanged: int x dy +
    int y dx = x(T) y(T), an endpoint effect. The STDP curve belongs to the directed synapse of a vector field.

    Args:
        tau_pre, tau_post: time constants of the traces, ms.
    Raises:
        ValueError: time constants that are not positive and finite.
    Source: the rule pre x d(post)/dt is that of Bengio et al. 2015 and Scellier & Bengio 2017; the window follows from
        the cross-correlation of the two kernels.
    """

    tau_pre: float = 20.0
    tau_post: float = 20.0

    def __post_init__(self) -> None:
        for name in ("tau_pre", "tau_post"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is a time constant in ms, positive and finite, got {getattr(self, name)!r}")

    @property
    def potentiation(self) -> float:
        """A+."""
        return self.tau_post / (self.tau_pre + self.tau_post)

    @property
    def depression(self) -> float:
        """A-."""
        return self.tau_pre / (self.tau_pre + self.tau_post)

    def window(self, delta: Tensor) -> Tensor:
        """W(delta), delta = t_post - t_pre in ms, elementwise."""
        later = self.potentiation * torch.exp(-delta.clamp_min(0) / self.tau_pre)
        earlier = -self.depression * torch.exp(delta.clamp_max(0) / self.tau_post)
        middle = torch.full_like(delta, (self.potentiation - self.depression) / 2)
        return torch.where(delta > 0, later, torch.where(delta < 0, earlier, middle))

    @torch.no_grad()
    def change(self, pre: Tensor, post: Tensor, dt: float = 1.0) -> Tensor:
        """The sum over pairs of W, event by event: local, from two traces.

            post spike: w += A+ x        pre spike: w -= A- y        then the traces jump; ties half and half

        Args:
            pre (T, *, n_pre), post (T, *, n_post): spikes, 0 or 1, with the same leading dimensions. dt: ms per step.
        Returns:
            (*, n_post, n_pre).
        Raises:
            ValueError: leading dimensions that differ, dt that is not positive.
        """
        dtype = _check(pre, post, dt)
        x, y = torch.zeros_like(pre[0], dtype=dtype), torch.zeros_like(post[0], dtype=dtype)
        total = torch.zeros(*post.shape[1:], pre.shape[-1], dtype=dtype, device=pre.device)
        keep_x, keep_y = math.exp(-dt / self.tau_pre), math.exp(-dt / self.tau_post)
        for s, z in zip(pre.to(dtype), post.to(dtype), strict=True):
            x, y = x * keep_x, y * keep_y
            total += self.potentiation * _outer(z, x + s / 2) - self.depression * _outer(y + z / 2, s)
            x, y = x + s, y + z
        return total

    @torch.no_grad()
    def integral(self, pre: Tensor, post: Tensor, dt: float = 1.0) -> tuple[Tensor, Tensor]:
        """int x dy by the traces themselves: the decay between steps integrated exactly, jumps by the midpoint rule.

        Arguments as those of `change`.
        Returns:
            the integral, (*, n_post, n_pre), and x(T) y(T), of the same shape.
        """
        dtype = _check(pre, post, dt)
        x, y = torch.zeros_like(pre[0], dtype=dtype), torch.zeros_like(post[0], dtype=dtype)
        total = torch.zeros(*post.shape[1:], pre.shape[-1], dtype=dtype, device=pre.device)
        keep_x, keep_y = math.exp(-dt / self.tau_pre), math.exp(-dt / self.tau_post)
        for s, z in zip(pre.to(dtype), post.to(dtype), strict=True):
            # int x y / tau_post over a step in which both decay.
            total -= self.depression * (1 - keep_x * keep_y) * _outer(y, x)
            x, y = x * keep_x, y * keep_y
            total += _outer(z, x + s / 2)
            x, y = x + s, y + z
        return total, _outer(y, x)


def directed_change(pre: Tensor, post: Tensor) -> Tensor:
    """int rho_pre d rho_post along a trajectory, by the midpoint rule: what a directed synapse learns from a nudged
    phase, sweep by sweep.

        sum_k (pre_k + pre_{k+1}) / 2  (post_{k+1} - post_k)^T, summed over the batch

    Both directions add up to the contrast of the ends, post_K^T pre_K - post_0^T pre_0, to rounding: two-phase
    equilibrium propagation and this rule on symmetric weights are one number.

    Args:
        pre (K + 1, B, n_pre), post (K + 1, B, n_post): activities after each sweep, the free state first.
    Returns:
        (n_post, n_pre).
    """
    middle, step = (pre[1:] + pre[:-1]) / 2, post[1:] - post[:-1]
    return torch.einsum("kbi,kbj->ij", step, middle)


@torch.no_grad()
def fitted_window(
    pre: Tensor, post: Tensor, change: Tensor, left: Tensor, reach: int = 60
) -> tuple[Tensor, Tensor, float]:
    """The STDP window that explains measured weight changes, by least squares, with nothing assumed of its shape.

        change_bij ~ sum_d W(d) (number of pairs with t_post - t_pre = d) + a left_bij

    Args:
        pre (T, B, n_pre), post (T, B, n_post): spikes, from rest on. change (B, n_post, n_pre): what each synapse
            changed by over these steps. left: x(T) y(T), what pairs still lack when the time is up (`PairSTDP`).
        reach: the largest difference in steps; what lies beyond is taken as 0.
    Returns:
        d = -reach ... reach, W(d), and the norm of what is left unexplained over that of the changes. Synapses with a
        silent end are left out.
    Raises:
        ValueError: fewer synapses than unknowns.
    """
    steps, post, pre = len(pre), post.double(), pre.double()
    columns = [left.double()]
    for d in range(-reach, reach + 1):
        later, earlier = post[max(d, 0) : steps + min(d, 0)], pre[max(-d, 0) : steps - max(d, 0)]
        columns.append(torch.einsum("tbi,tbj->bij", later, earlier))
    fires = (post.sum(0) > 0)[:, :, None] & (pre.sum(0) > 0)[:, None, :]
    counts, changes = torch.stack([c[fires] for c in columns], 1), change.double()[fires]
    if len(counts) < counts.shape[1]:
        raise ValueError(
            f"{counts.shape[1]} unknowns need at least as many synapses with spikes at both ends, got {len(counts)}: "
            "record more samples or neurons, or a shorter reach"
        )
    found = torch.linalg.lstsq(counts, changes[:, None], driver="gelsd").solution[:, 0]
    unexplained = float((counts @ found - changes).norm() / changes.norm())
    return torch.arange(-reach, reach + 1), found[1:], unexplained


@torch.no_grad()
def emergent_window(
    trials: int = 400_000,
    rate: float = 0.05,
    ramp: float = 20.0,
    reach: float = 60.0,
    bin_width: float = 10.0,
    random: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The STDP curve that appears when nothing but d(post)/dt is learned from: Bengio et al. 2015.

    A presynaptic spike at time 0. The postsynaptic activity ramps, V(t) = clip(1/2 + a t / (2 ramp), 0, 1) with a ~
    U(-1, 1), and fires as a Poisson process of rate `rate` V(t) per ms. The synapse changes by a, the slope, whatever
    the spikes do. Sorted by the postsynaptic spike nearest to 0, the mean change is negative before and positive after.

    Args:
        trials: pairs simulated. rate: spikes per ms at V = 1. ramp: ms. reach, bin_width: of the curve, ms.
    Returns:
        centres of the bins (n,), the mean change in each, and its standard error. NaN where no spike fell.
    """
    device = "cpu" if random is None else random.device
    a = 2 * torch.rand(trials, generator=random, device=device, dtype=torch.float64) - 1
    steps = int(reach / 0.5)
    nearest = torch.full((trials,), math.inf, dtype=torch.float64, device=device)
    alive = torch.ones(trials, dtype=torch.bool, device=device)
    for k in range(steps):  # outwards from 0 in steps of half a millisecond, both sides
        draws = torch.rand(2, trials, generator=random, device=device, dtype=torch.float64)
        offset = 0.5 * (k + torch.rand(trials, generator=random, device=device, dtype=torch.float64))
        for side, draw in ((1, draws[0]), (-1, draws[1])):
            v = (0.5 + 0.5 * a * side * (0.5 * k + 0.25) / ramp).clamp(0, 1)
            fires = draw < 1 - torch.exp(-rate * 0.5 * v)
            # Of two first spikes in one step the side is drawn evenly: offsets are one number for both.
            even = torch.rand(trials, generator=random, device=device) < 0.5
            wins = alive & fires & (nearest.isinf() | even)
            nearest = torch.where(wins, side * offset, nearest)
        alive &= nearest.isinf()
    edges = torch.arange(-reach, reach + bin_width / 2, bin_width, dtype=torch.float64, device=device)
    place = torch.bucketize(nearest, edges, right=True) - 1
    means, errors = [], []
    for index in range(len(edges) - 1):
        chosen = a[place == index]
        means.append(chosen.mean() if len(chosen) else chosen.new_tensor(math.nan))
        errors.append(chosen.std() / math.sqrt(len(chosen)) if len(chosen) > 1 else chosen.new_tensor(math.nan))
    return (edges[1:] + edges[:-1]) / 2, torch.stack(means), torch.stack(errors)


def _outer(post: Tensor, pre: Tensor) -> Tensor:
    return post[..., :, None] * pre[..., None, :]


def _check(pre: Tensor, post: Tensor, dt: float) -> torch.dtype:
    if pre.shape[:-1] != post.shape[:-1]:
        raise ValueError(
            f"spikes of both ends need the same time and batch, (T, *, n_pre) and (T, *, n_post); got "
            f"{tuple(pre.shape)} and {tuple(post.shape)}"
        )
    if not dt > 0:
        raise ValueError(f"dt is the duration of a step in ms, positive, got {dt!r}")
    return torch.float64 if torch.float64 in (pre.dtype, post.dtype) else torch.float32
