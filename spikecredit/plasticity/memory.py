"""Synapses that remember at many time scales: Benna & Fusi's chain, the cascade, and how a memory fades."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Preset, Rule


@dataclass(frozen=True)
class BennaFusi(Rule):
    """A chain of beakers: the weight u1 leaks into slower and slower hidden variables, which hold it up later.

        C_k du_k/dt = g_(k-1) (u_(k-1) - u_k) - g_k (u_k - u_(k+1)),   k = 1 ... m
        C_k = r^(k-1),   g_k = r^(1-k)/alpha,   r = (beta/alpha)^(1/(2m - 2))

    Liquid flows between neighbours only, so sum C_k u_k changes by events alone; with `leak` the last beaker empties
    through g_m. An event decays as t^(-1/2) between alpha and beta. Events are those of all-to-all pair STDP on u1.

    Args:
        m: beakers, at least 2.
        alpha, beta: the fastest and the slowest time constant, s.
        leak: whether the last beaker leaks.
        A_plus, A_minus: amplitudes of pairs; tau_plus, tau_minus: ms.
    Raises:
        ValueError: fewer than two beakers, or time constants out of order.
    Source: Benna & Fusi 2016, Nat. Neurosci. 19:1697; C and g as van de Ven writes them, which for r = 2 and alpha = 2
    units of time are the paper's 2^(k-1) and 2^(-k) (from memory).
    """

    m: int = 6
    alpha: float = 2.0
    beta: float = 2048.0
    leak: bool = False
    A_plus: float = 0.1
    A_minus: float = 0.1
    tau_plus: float = 20.0
    tau_minus: float = 20.0

    UNITS: ClassVar[Mapping[str, str]] = {
        "alpha": "second", "beta": "second", "tau_plus": "ms", "tau_minus": "ms"
    }  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "doubling": Preset(
            {"m": 6, "alpha": 2.0, "beta": 2048.0}, "Benna & Fusi 2016, from memory: C_k = 2^(k-1), g_k = 2^-k", False,
            note="the paper's unit of time is one event; here it is a second. STDP as the cause of events is ours",
        ),
    }  # fmt: skip

    @property
    def ratio(self) -> float:
        """r, by which a beaker is larger than the one before it."""
        return float((self.beta / self.alpha) ** (1 / (2 * self.m - 2)))

    @property
    def capacities(self) -> np.ndarray:
        """C_k, (m,)."""
        return self.ratio ** np.arange(self.m)

    @property
    def conductances(self) -> np.ndarray:
        """g_k in 1/s, (m,): from beaker k to the next, the last one's leak."""
        g = self.ratio ** -np.arange(self.m) / self.alpha
        return g if self.leak else np.append(g[:-1], 0.0)

    def equations(self) -> Equations:
        if not (self.m >= 2 and 0 < self.alpha < self.beta):
            raise ValueError(
                f"expected m >= 2 beakers and 0 < alpha < beta, got m = {self.m}, alpha = {self.alpha:g}, beta = "
                f"{self.beta:g}"
            )
        lines, parameters = [], {}
        for k in range(1, self.m + 1):
            flow = [f"g{k - 1}*(u{k - 1} - u{k})"] if k > 1 else []
            flow += [f"g{k}*(u{k + 1} - u{k})"] if k < self.m else [f"-g{k}*u{k}"] if self.leak else []
            lines.append(f"du{k}/dt = ({' + '.join(flow)})/C{k} : 1")
            parameters[f"C{k}"] = (float(self.capacities[k - 1]), "1")
            if k < self.m or self.leak:
                parameters[f"g{k}"] = (float(self.conductances[k - 1]), "Hz")
        lines += ["dx/dt = -x/tau_plus : 1", "dy/dt = -y/tau_minus : 1"]
        own = {n: self.constants()[n] for n in ("A_plus", "A_minus", "tau_plus", "tau_minus")}
        return Equations(
            model="\n".join(lines),
            on_pre="u1 -= A_minus*y\nx += 1",
            on_post="u1 += A_plus*x\ny += 1",
            parameters={**parameters, **own},
            weight="u1",
        )

    def change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The change of u1 itself, (C,): it starts at 0, so a relative one has no meaning."""
        return after.mean(axis=1) - before.mean(axis=1)

    def response(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """u1 at `times` (s) after u1 was set to 1 and the others to 0, (T,); the chain is linear, so this is exact."""
        C, g = self.capacities, self.conductances
        flow = np.diag(-g - np.append(0.0, g[:-1])) + np.diag(g[:-1], 1) + np.diag(g[:-1], -1)
        rates, modes = np.linalg.eigh(flow / np.sqrt(np.outer(C, C)))
        return np.exp(np.outer(np.asarray(times, dtype=float), rates)) @ modes[0] ** 2


@dataclass(frozen=True)
class Cascade(Rule):
    """A binary synapse with n levels of persistence on each side; deeper levels are harder to leave.

    State: s = -1 (weak) or 1 (strong), and level k = 1 ... n. A candidate event against s flips it with probability q_k
    to level 1 of the other side; one along s moves it a level deeper with probability p_k:

        q_k = r^(k-1) for k < n,  q_n = r^(n-1)/(1 - r);    p_k = r^k/(1 - r) for k < n,  p_n = 0

    With these p all 2n states are equally likely when both kinds of events are (for r <= 1/2 all are probabilities). A
    postsynaptic spike is a candidate for potentiation with probability x, where x is set to 1 by a presynaptic spike
    and decays with tau_plus; a presynaptic spike is one for depression with probability y, in the same way.

    The weight is (1 + s)/2. `start` sets s and k of each synapse.

    Args:
        n: levels, at least 2.
        r: ratio, in (0, 1/2].
        tau_plus, tau_minus: ms.
    Raises:
        ValueError: fewer than two levels, or a ratio with which p_1 is no probability.
    Source: Fusi, Drew & Abbott 2005, Neuron 45:599 (r = 1/2, and its p and q; from memory). Pairs as candidate events
    are ours.
    """

    n: int = 5
    r: float = 0.5
    tau_plus: float = 20.0
    tau_minus: float = 20.0

    UNITS: ClassVar[Mapping[str, str]] = {"tau_plus": "ms", "tau_minus": "ms"}

    def equations(self) -> Equations:
        self._check()

        def event(candidate: str, side: str, other: str, sign: str) -> str:
            # the draw is against both probabilities: a state has only one of the two ways open
            return f"""
            draw = rand()
            flip = int({other})*int(draw < {candidate}*r**(k - 1)*(1 + r/(1 - r)*int(k > n - 0.5)))
            sink = int({side})*int(draw < {candidate}*r**k/(1 - r)*int(k < n - 0.5))
            k = k + sink + (1 - k)*flip
            s = s {sign} 2*flip
            """

        return Equations(
            model="""
            w = (1 + s)/2 : 1
            s : 1
            k : 1
            dx/dt = -x/tau_plus : 1
            dy/dt = -y/tau_minus : 1
            """,
            on_pre=event("y", "s < 0", "s > 0", "-") + "x = 1",
            on_post=event("x", "s > 0", "s < 0", "+") + "y = 1",
            parameters=self.constants(),
            start={"s": -1.0, "k": 1.0},
        )

    def _check(self) -> None:
        if not (self.n >= 2 and 0 < self.r <= 0.5):
            raise ValueError(f"expected n >= 2 levels and a ratio r in (0, 1/2], got n = {self.n} and r = {self.r}")

    def change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The change of the share of strong synapses, (C,)."""
        return after.mean(axis=1) - before.mean(axis=1)

    def matrix(self, potentiation: float) -> np.ndarray:
        """The Markov matrix of one candidate event, (2n, 2n), from column to row.

        Args:
            potentiation: the probability that the event is one for potentiation.
        States: level n ... 1 of the weak side, then level 1 ... n of the strong one.
        """
        self._check()
        n, k = self.n, np.arange(1, self.n + 1)
        q = self.r ** (k - 1.0)
        q[-1] /= 1 - self.r
        p = self.r**k / (1 - self.r) * (k < n)
        up = np.eye(2 * n)
        weak, strong = n - k, n - 1 + k  # index of level k on either side
        up[weak, weak] -= q
        up[strong[0], weak] += q
        up[strong, strong] -= p
        up[strong[1:], strong[:-1]] += p[:-1]
        return potentiation * up + (1 - potentiation) * up[::-1, ::-1]

    def signal_to_noise(self, events: Sequence[int] | np.ndarray, synapses: int) -> np.ndarray:
        """How well a memory is seen `events` candidate events after it was stored, (T,).

        Half of the synapses saw an event for potentiation, the others one for depression; afterwards events are random.
        The signal is the mean overlap of weights with that pattern beyond chance, the noise its standard deviation at
        rest.

        Args:
            events: how many random events came since. synapses: N, independent.
        """
        weights = np.repeat([0.0, 1.0], self.n)
        later = self.matrix(0.5)
        rest = np.full(2 * self.n, 1 / (2 * self.n))
        stored = (self.matrix(1.0) - self.matrix(0.0)) @ rest / 2
        signal = np.array([weights @ np.linalg.matrix_power(later, int(t)) @ stored for t in events])
        return signal * np.sqrt(synapses) / 0.5  # the weight is 0 or 1 with equal chance


def signal_to_noise(weights: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """The ideal observer's signal-to-noise ratio of a stored pattern in simulated weights, (T,).

    The overlap of each copy is the mean of pattern times weight over synapses; the signal is its mean over copies, the
    noise its standard deviation over copies.

    Args:
        weights: (T, copies, N), relative to their mean at rest.
        pattern: +1 or -1 for each synapse of each copy, (copies, N).
    Raises:
        ValueError: shapes that do not fit, or a single copy, which has no spread.
    """
    if weights.ndim != 3 or weights.shape[1:] != pattern.shape or len(pattern) < 2:
        raise ValueError(
            f"expected weights (T, copies, N) with at least 2 copies and a pattern (copies, N), got {weights.shape} "
            f"and {pattern.shape}"
        )
    overlap = (weights * pattern).mean(axis=2)
    return overlap.mean(axis=1) / overlap.std(axis=1, ddof=1)
