"""The device checks: on CUDA where there is one, and on the CPU always, so that the checks themselves stay alive."""

import pytest
import torch

from benchmarks.gpu_checks import CHECKS


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_on_cpu(check):
    check("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine; make gpu runs these")
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_on_cuda(check):
    check("cuda")
