"""Competition by STDP: 1000 inputs of one neuron, additive and multiplicative, after 1000 s.

    python -m benchmarks.plasticity_competition

Writes results/plasticity_competition.json. The neuron and the additive rule are those of Song, Miller & Abbott 2000 as
in the example of Brian 1, without inhibition; steps of 1 ms. Conductances are in units of the leak.
"""

import argparse
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import write
from spikecredit.plasticity import PairSTDP
from spikecredit.plasticity.engines.batched import Batch

TAU_M, TAU_E, REST, REVERSAL, THRESHOLD, RESET = 20.0, 5.0, -70.0, 0.0, -54.0, -60.0
"""ms and mV."""
RATES = (10.0, 15.0, 20.0, 40.0)
SHARED = 0.05
"""Correlation of two inputs of the correlated half."""


def simulate(
    rule: PairSTDP,
    rates: tuple[float, ...],
    seconds: int,
    shared: tuple[float, ...] | None = None,
    inputs: int = 1000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Neurons side by side, one for each rate, each with Poisson inputs of its own.

    Args:
        rule: weights in units of the leak. They start even over 0 to w_max.
        rates: Hz, of every input of each neuron.
        seconds: how long.
        shared: for each neuron the correlation in the first half of its inputs: each copies a spike
            from one train in common with the square root of that probability; 0 by default.
    Returns:
        weights in units of w_max, (neurons, inputs), and the rate of each neuron in the last tenth, Hz.
    """
    neurons = len(rates)
    # Two spikes of one step came in an unknown order, and the rule takes them as pre before post; these amplitudes make
    # the sum over steps, sum_k>=0 A exp(-k/tau), the integral A tau that it stands for, and so keep A_minus/A_plus.
    rule = replace(
        rule, A_plus=rule.A_plus * math.exp(-0.5 / rule.tau_plus), A_minus=rule.A_minus * math.exp(0.5 / rule.tau_minus)
    )
    generator = torch.Generator().manual_seed(seed)
    batch = Batch(rule.equations(), neurons, 1, inputs, dtype=torch.float64, seed=seed)
    even = torch.rand(neurons, 1, inputs, generator=generator, dtype=torch.float64)
    state = batch.start({"w": even * rule.w_max})
    weights = state["w"][:, 0]
    probability = torch.tensor(rates)[:, None] * 1e-3
    copied = torch.tensor(shared or (0.0,) * neurons)[:, None].sqrt()
    v = torch.full((neurons,), REST, dtype=torch.float64)
    g, count = torch.zeros_like(v), torch.zeros_like(v)
    fade, last = math.exp(-1 / TAU_E), seconds - max(1, seconds // 10)
    for second in range(seconds):
        trains = torch.rand(1000, neurons, inputs, generator=generator) < probability
        if shared:
            half = inputs // 2
            common = torch.rand(1000, neurons, 1, generator=generator) < probability
            chosen = torch.rand(1000, neurons, half, generator=generator) < copied
            trains[:, :, :half] = torch.where(chosen, common, trains[:, :, :half])
        for pre in trains:
            total = 1 + g
            v = v + (REST + g * REVERSAL - total * v) / total * (1 - torch.exp(-total / TAU_M))
            g = g * fade + (weights * pre).sum(1)
            spike = v > THRESHOLD
            fired = bool(spike.any())
            batch.step(state, pre, spike[:, None] if fired else None)
            if fired:
                v = torch.where(spike, RESET, v)
                count += spike * (second >= last)
    return weights / rule.w_max, count / (seconds - last)


def summary(weights: Tensor) -> dict[str, Any]:
    """What a distribution of weights (in units of w_max) looks like."""
    counts = torch.histc(weights.float(), 20, 0, 1) / len(weights)
    return {
        "below_0.1": float((weights < 0.1).double().mean()), "above_0.9": float((weights > 0.9).double().mean()),
        "middle": float(((weights >= 0.45) & (weights < 0.55)).double().mean()),
        "mean": float(weights.mean()), "sd": float(weights.std()), "histogram": counts.tolist(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=1000)
    seconds = parser.parse_args().seconds
    additive = PairSTDP.preset("song_miller_abbott")
    weights, firing = simulate(additive, (*RATES, RATES[0]), seconds, (0.0,) * len(RATES) + (SHARED,))
    result: dict[str, Any] = {
        "seconds": seconds,
        "additive": [
            {"rate_hz": r, "output_hz": float(f), **summary(w)}
            for r, w, f in zip(RATES, weights, firing, strict=False)
        ],
        "correlated_half": {
            "shared": SHARED, "output_hz": float(firing[-1]),
            "mean_correlated": float(weights[-1, :500].mean()), "mean_others": float(weights[-1, 500:].mean()),
        },
    }  # fmt: skip
    multiplicative = replace(additive, mu_plus=1.0, mu_minus=1.0)
    weights, firing = simulate(multiplicative, RATES[:1], seconds)
    wanted = 1 / (1 + multiplicative.A_minus / multiplicative.A_plus)
    result["multiplicative"] = {
        "rate_hz": RATES[0], "output_hz": float(firing[0]), "fixed_point": wanted, **summary(weights[0])
    }  # fmt: skip
    command = f"python -m benchmarks.plasticity_competition --seconds {seconds}"
    write("plasticity_competition", command, torch.device("cpu"), **result)


if __name__ == "__main__":
    main()
