"""The audit: 300 steps of everything that moves weights, and after each step every sign is what it was at the start.

The signs are read off the effective weights here, not asked of the constraint. The same loop without a constraint, or
without its projection, breaks them by the hundred.
"""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import spikecredit as sc
from spikecredit.analysis import sign_audit
from spikecredit.constraints import Dale
from spikecredit.synapses import Constrained

STEPS = 300
MODES = {
    "project": Dale(),
    "abs": Dale(mode="reparametrize"),
    "exp": Dale(mode="reparametrize", magnitude="exp"),
    "softplus": Dale(mode="reparametrize", magnitude="softplus"),
}
OPTIMIZERS = {
    "momentum, coupled decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "EG": lambda p: sc.EG(p, lr=0.3, momentum=0.9),
    "EGAdamW": lambda p: sc.EGAdamW(p, lr=0.03, weight_decay=0.1),
}


def network(constraint, seed=0):
    """Convolutions, normalisation, a recurrent population, dense layers: whatever has a sign."""
    torch.manual_seed(seed)
    lif = [sc.LIF(5.0, threshold=0.2) for _ in range(4)]
    layers = (
        sc.Conv2d(1, 6, 3), sc.BatchNorm2d(6), lif[0], sc.MaxPool2d(2), sc.Conv2d(6, 8, 2), lif[1], sc.Flatten(),
        sc.RecurrentLinear(32, 20, lif[2]), sc.Linear(20, 16), sc.BatchNorm1d(16), lif[3], sc.Linear(16, 4),
        sc.LeakyReadout(),
    )  # fmt: skip
    return sc.Network(*layers, pathway=sc.SignSymmetry("fixed"), constraint=constraint, seed=seed)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(12, 1, 8, 8, generator=generator)
    return images.expand(3, *images.shape), torch.randint(4, (12,), generator=generator)  # labels know nothing of them


def signs(net):
    """The sign of every column of every layer that has one, and of every scale, by looking at the effective weights."""
    found = {}
    for name, layer in net.named_modules():
        if isinstance(layer, Constrained):
            weight = layer.effective_weight().detach()
            columns = weight if weight.ndim == 1 else weight.transpose(0, 1).flatten(1)
            found[name] = columns.sign()
    return found


def broken(start, net):
    """How many weights have a sign that the column had not at the start; 0 is no sign. The sensory layer is exempt."""
    count = 0
    for name, now in signs(net).items():
        first = start[name]
        if first.ndim == 1:
            count += int((now < 0).sum())
        elif name != "layers.0":
            column = first.sum(1, keepdim=True).sign()
            count += int((now * column < 0).sum())
    return count


def train(net, optimizer, start, first=0, last=STEPS, clip=None, bf16=False, forward=None):
    total = 0
    for step in range(first, last):
        x, y = batch(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = (forward or net)(x)
        F.cross_entropy(out.float().mean(0), y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        total += broken(start, net)
    return total


def columns_agree(start):
    return all(
        bool((value.abs().sum(1) == value.sum(1).abs()).all())
        for name, value in start.items()
        if value.ndim > 1 and name != "layers.0"
    )


CASES = [
    ("project", "momentum, coupled decay", {}),
    ("project", "Nesterov", {"clip": 0.5}),
    ("project", "Adam", {"bf16": True}),
    ("project", "AdamW", {"clip": 0.5, "bf16": True}),
    ("abs", "momentum, coupled decay", {"bf16": True}),
    ("exp", "AdamW", {}),
    ("softplus", "Adam", {"clip": 0.5}),
    ("project", "EG", {}),
    ("project", "EGAdamW", {"bf16": True}),
]


@pytest.mark.parametrize(("mode", "optimizer", "how"), CASES, ids=lambda value: str(value))
def test_nothing_breaks_a_sign(mode, optimizer, how):
    net = network(MODES[mode])
    start = signs(net)
    assert columns_agree(start)
    opt = OPTIMIZERS[optimizer](net.parameters())
    if not optimizer.startswith("EG"):  # which needs no projection
        sc.attach(net, opt)
    before = copy.deepcopy(net.state_dict())
    assert train(net, opt, start, **how) == 0
    assert net.violations() == 0
    assert sum(layer.violations for layer in sign_audit(net).values()) == 0
    moved = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert {name for name in before if name.endswith("weight") and "feedback" not in name} <= set(moved)


@pytest.mark.parametrize("optimizer", ["momentum, coupled decay", "Adam", "AdamW"])
def test_the_same_loop_breaks_signs_that_nothing_holds(optimizer):
    """Two controls: no constraint, from the very same weights; and a constraint whose projection does nothing."""
    held = network(Dale())
    start = signs(held)
    free = network(None)
    free.load_state_dict({k: v for k, v in held.state_dict().items() if "sign" not in k})
    assert columns_agree(signs(free))
    assert train(free, OPTIMIZERS[optimizer](free.parameters()), start, last=60) > 100
    forgotten = held.eval()  # in training mode it would warn
    assert train(forgotten, OPTIMIZERS[optimizer](forgotten.parameters()), start, last=60) > 100
    assert sum(layer.violations for layer in sign_audit(forgotten).values()) == forgotten.violations() > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_goes_on_with_the_same_signs(mode):
    net = network(MODES[mode])
    start = signs(net)
    opt = OPTIMIZERS["AdamW"](net.parameters())
    sc.attach(net, opt)
    total = train(net, opt, start, last=STEPS // 2)
    other = network(MODES[mode], seed=1)  # whose units have other signs
    assert broken(start, other) > 0
    other.load_state_dict(net.state_dict())
    resumed = OPTIMIZERS["AdamW"](other.parameters())
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    sc.attach(other, resumed)
    assert total + train(other, resumed, start, first=STEPS // 2) == 0


def test_a_converted_model_keeps_its_signs():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)  # made before
    sc.convert(model, pathway=sc.SignSymmetry("fixed"), constraint=Dale(), seed=0)
    sc.attach(model, opt)
    start = {name: value for name, value in signs(model).items() if name != "0"}
    assert columns_agree(start)
    total = 0
    for step in range(STEPS):
        x, y = batch(step)
        opt.zero_grad()
        F.cross_entropy(model(x[0]), y).backward()
        opt.step()
        now = {name: value for name, value in signs(model).items() if name in start}
        for name, value in now.items():
            first = start[name]
            total += int((value < 0).sum()) if first.ndim == 1 else int((value * first.sum(1, True).sign() < 0).sum())
    assert total == 0
    assert sum(layer.violations for layer in sign_audit(model).values()) == 0


def _worker(rank: int, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net = network(Dale())
    start = signs(net)
    opt = OPTIMIZERS["momentum, coupled decay"](net.parameters())
    sc.attach(net, opt)
    wrapped = DistributedDataParallel(net)
    total = 0
    for step in range(STEPS):
        x, y = batch(2 * step + rank)
        opt.zero_grad()
        F.cross_entropy(wrapped(x).mean(0), y).backward()
        opt.step()
        total += broken(start, net)
    torch.save({"total": total, "weights": [p.detach() for p in net.parameters()]}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_keep_the_signs_and_each_others_weights(tmp_path: Path):
    """DistributedDataParallel averages gradients; each process projects its own copy, and both are alike."""
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert (first["total"], second["total"]) == (0, 0)
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
