"""`make gpu`: the GPU tests and benchmarks in one command, with the Python that is there; nothing is installed or
fetched.

    python -m benchmarks.gpu

The checks are plain functions, so that they run without pytest; `tests/test_gpu.py` runs the same ones under it.
"""

import subprocess
import sys
import traceback

import torch

from benchmarks import gpu_checks


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit(f"make gpu: torch {torch.__version__} sees no CUDA device; run it on a machine with one")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    failed = 0
    for name, check in gpu_checks.CHECKS.items():
        try:
            check("cuda")
            print(f"passed  {name}")
        except AssertionError:
            failed += 1
            traceback.print_exc()
            print(f"FAILED  {name}")
    for module in (
        "benchmarks.speed",
        "benchmarks.pathways",
        "benchmarks.constraints",
        "benchmarks.layout",
        "benchmarks.plasticity",
    ):
        subprocess.run([sys.executable, "-m", module, "--device", "cuda"], check=True)
    print(f"{len(gpu_checks.CHECKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
