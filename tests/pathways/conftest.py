"""pytest's import mode "importlib" leaves sys.path alone; the tests of this room share `feedback_oracles`."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # the matrices are small: threads would wait for each other
