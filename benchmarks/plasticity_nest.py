"""NEST's part of `benchmarks.plasticity`, in an interpreter that has NEST: trains.npz and repeats in, JSON out."""

import json
import sys
import time

import nest
import numpy as np


def main() -> None:
    trains, repeats = np.load(sys.argv[1]), int(sys.argv[2])
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.resolution = 1.0
    nest.local_num_threads = 1
    steps, n = trains["pre"].shape
    ends = {}
    for name in ("pre", "post"):
        spikes = np.tile(trains[name], (repeats + 1, 1))
        generators, ends[name] = nest.Create("spike_generator", n), nest.Create("parrot_neuron", n)
        for i in range(n):
            generators[i].spike_times = np.nonzero(spikes[:, i])[0] + 1.0
        nest.Connect(generators, ends[name], "one_to_one", {"delay": 1.0})
    ends["post"].set({"tau_minus": 33.7, "tau_minus_triplet": 125.0})
    rule = {
        "synapse_model": "stdp_triplet_synapse", "receptor_type": 1, "delay": 1.0, "weight": 1.0, "Wmax": 100.0,
        "tau_plus": 16.8, "tau_plus_triplet": 101.0, "Aplus": 5e-10, "Aplus_triplet": 6.2e-3, "Aminus": 7e-3,
        "Aminus_triplet": 2.3e-4,
    }  # fmt: skip
    nest.Connect(ends["pre"], ends["post"], "all_to_all", rule)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        nest.Simulate(float(steps))
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"version": nest.__version__, "seconds": seconds[1:]}))


if __name__ == "__main__":
    main()
