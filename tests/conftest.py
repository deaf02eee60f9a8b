"""For all tests: one thread, and folders of shared helpers on the path.

The tensors here are tiny: where cores are shared, threads that wait for each other make the tests 10 times slower.
"""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

for room in ("neurons", "pathways", "training"):  # pytest's import mode "importlib" leaves sys.path alone
    sys.path.append(str(Path(__file__).parent / room))
