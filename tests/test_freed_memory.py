"""The compiled loops go by addresses, which must not outlive the arrays that they are of."""

import os
import subprocess
import sys


def test_no_memory_is_used_after_it_was_given_back():
    """Every compiled loop in a process whose malloc unmaps what is freed at once, with large arrays: an address
    that outlives its array ends the process. Numba drops an array after its last use, not at the end of its scope."""
    code = """if True:
        import torch, spikecredit as sc
        torch.manual_seed(0)
        torch.set_num_threads(2)
        for precision in (torch.float32, torch.bfloat16):
            for layers, shape in [
                ((sc.Linear(784, 700), sc.LIF(), sc.Linear(700, 700), sc.ALIF(), sc.Linear(700, 10), sc.LIF()), (784,)),
                ((sc.Conv2d(1, 12, 5), sc.MaxPool2d(2), sc.LIF(), sc.Conv2d(12, 64, 5), sc.MaxPool2d(2), sc.LIF(),
                  sc.Flatten(), sc.Linear(1024, 10), sc.LIF()), (1, 28, 28)),
                ((sc.RecurrentLinear(100, 256, sc.LIF()),), (100,)),
            ]:
                net, x = sc.Network(*layers, seed=0), (torch.rand(25, 90, *shape) < 0.5).float()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                    net(x).float().sum().backward()
        print("done")
    """
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr[-2000:]
