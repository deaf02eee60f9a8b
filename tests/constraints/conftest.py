"""One thread: these networks are so small that threads wait for each other, 20 s for 1 s where the cores are shared."""

import torch

torch.set_num_threads(1)
