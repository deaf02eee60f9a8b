"""For all tests: one thread, seeded global generators, and folders of shared helpers on the path.

The tensors here are tiny: where cores are shared, threads that wait for each other make the tests 10 times slower.
"""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# No deadline: a busy machine is no error. CI must not fail on a draw that nobody saw before; runs by hand go on
# looking for new ones.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

for room in (
    "neurons",
    "pathways",
    "training",
    "analysis",
    "equilibrium",
    "circuits",
    "plasticity",
):  # pytest's import mode "importlib" leaves sys.path alone
    sys.path.append(str(Path(__file__).parent / room))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
