"""benchmarks.speed: that it measures what it says, in tiny sizes; no figure is checked, machines differ."""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import spikecredit as sc
from benchmarks import (
    common,
    speed,
    speed_check,
    speed_kernel,
    speed_memory,
    speed_peers,
    speed_report,
    speed_steps,
)
from benchmarks.speed_networks import MNIST_LIT, MNIST_MEAN, SteppedReLU, fc, ours, works

CPU = torch.device("cpu")
ENVIRONMENT = {
    "command": "python -m benchmarks.speed", "commit": "0123456789ab", "torch": "2.13", "date": "2026-11-21",
    "peers": {"norse": "not installed"}, "threads": 2, "cores": 2, "processor": "a processor", "cpu_flags": ["avx2"],
    "device": "cpu", "malloc": "default", "repeats": 2, "load": 0.0,
}  # fmt: skip


def seconds(value: float) -> dict[str, float]:
    return {"median": value, "low": 0.9 * value, "high": 1.1 * value}


@pytest.mark.parametrize("name", ["fc", "conv", "vgg", "recurrent"])
@pytest.mark.parametrize("kind", ["spikes", "constant"])
def test_every_network_takes_both_inputs_in_both_layouts(name: str, kind: Any) -> None:
    work = works(CPU, quick=True)[name]
    net = ours(work)
    outs = [net(work.inputs(kind, CPU, last)) for last in (False, True)]
    assert outs[0].shape == (work.steps, work.batch, work.classes)
    if name != "vgg":  # batch normalisation in training mode moves with the first call
        torch.testing.assert_close(outs[0], outs[1])


def test_sparse_spikes_are_as_many_as_mnists() -> None:
    x = fc(batch=500).inputs("sparse spikes", CPU)
    assert abs(float(x.mean()) - MNIST_MEAN) < 0.002
    lit = float((x.sum(0) > 0).float().mean())  # an input that is lit spikes within 25 steps with certainty
    assert abs(lit - MNIST_LIT) < 0.005


def test_vgg_is_the_networks_own() -> None:
    """The layers of `vgg11` are those of `sc.VGG()` but for the readout."""
    theirs = sc.VGG().build((3, 32, 32), 10)
    shapes = [tuple(p.shape) for p in ours(works(CPU)["vgg"]).parameters()]
    assert shapes == [tuple(p.shape) for p in theirs.parameters()]


def test_the_bound_is_computed_at_every_step() -> None:
    """A constant input must not let the network of ReLUs run once instead of T times."""
    seen: list[int] = []

    class Watched(SteppedReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape[0])
            return super().forward(x)

    ours(fc(10, 7, 2), Watched())(fc(10, 7, 2).inputs("constant", CPU))
    assert seen == [7, 7]


def test_competitors_do_the_same_work() -> None:
    pytest.importorskip("snntorch")
    rows = speed_check.same_work()
    assert {row["network"] for row in rows if row["peer"] == "snnTorch Leaky"} == {
        work.name for name, work in works(CPU).items() if name != "vgg"
    }


def test_other_work_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("snntorch")
    monkeypatch.setattr(speed_check, "ours", lambda work: ours(work, sc.LIF(5.0)))
    with pytest.raises(speed_check.DifferentWorkError, match="snnTorch Leaky"):
        speed_check.same_work()


def test_absent_peers_are_named_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_peers, "MODULES", {"snntorch": "nowhere_at_all", "spikingjelly": "x", "norse": "y"})
    speed_peers.absent.cache_clear()
    try:
        assert speed_peers.absent().keys() == {"snntorch", "spikingjelly", "norse"}
        assert set(speed_steps.competitors(fc())) == {speed_steps.BOUND, speed_steps.OURS}
        rows = speed_steps.measure(fc(10, 3, 2), "spikes", CPU, 2, lambda *case: {})
        assert [row["competitor"] for row in rows] == [speed_steps.BOUND] * 2 + [speed_steps.OURS] * 2
        assert all("train" in row and "train_x" not in row for row in rows)  # nothing to be relative to
        assert [row.get("of_bound", {}).get("pairs") for row in rows] == [None] * 2 + [2 * speed_steps.PAIRS] * 2
    finally:
        speed_peers.absent.cache_clear()


@pytest.mark.parametrize("again", [True, False])
def test_a_timed_call_follows_one_of_its_own_if_asked_for(again: bool) -> None:
    clock, order = [0.0], []

    def call(name: str) -> None:
        clock[0] += 1.0 if order and order[-1] == name else 5.0  # after another one it is slower
        order.append(name)

    with mock.patch.object(common.time, "perf_counter", side_effect=lambda: clock[0]):
        cases = {name: lambda name=name: call(name) for name in "abc"}
        found = common.interleaved(cases, 30, again=again)
    if again:
        assert [row["high"] for row in found.values()] == [1.0] * 3
        assert order[::2] == order[1::2]
    else:
        assert [row["median"] for row in found.values()] == [5.0] * 3
        assert len(order) == 3 * 33


def test_pairs_give_the_ratio_of_neighbours() -> None:
    """On a machine that becomes slower all the time the ratio stays; in both orders."""
    clock, order = [0.0], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        clock[0] += seconds * len(order)

    with mock.patch.object(common.time, "perf_counter", side_effect=lambda: clock[0]):
        found = common.paired(lambda: call("a", 3.0), lambda: call("b", 1.0), 200)
    assert found["pairs"] == 200
    assert found["low"] <= 3 <= found["high"]
    assert abs(found["median"] - 3) < 0.1
    assert order[::2] == order[1::2]  # each timed one follows one of its own
    assert {order[k] for k in range(0, 800, 4)} == {"a", "b"}


def test_of_relus_time_comes_from_the_pairs_if_there_are_any() -> None:
    relu = {"competitor": speed_steps.BOUND, "input": "spikes", "precision": "bf16", "train": {"median": 2.0}}
    ours = {**relu, "competitor": speed_steps.OURS, "train": {"median": 3.0}}
    assert speed_report.of_bound(ours, [relu, ours]) == "1.50"
    assert speed_report.of_bound(ours, [{**relu, "input": "constant"}, ours]) == "–"
    ours["of_bound"] = {"median": 1.02, "low": 0.99, "high": 1.04}
    assert speed_report.of_bound(ours, [relu, ours], quartiles=True) == "1.02 (0.99–1.04)"


def test_a_peer_that_fails_is_recorded_and_we_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(work: object) -> torch.nn.Module:
        raise RuntimeError("no such kernel")

    broken = speed_steps.Competitor("a peer", "peer", fail)
    monkeypatch.setattr(speed_steps, "competitors", lambda *_: {"a peer": broken, **real})
    real = {"us": speed_steps.Competitor("us", "spikecredit", ours)}
    rows = speed_steps.measure(fc(10, 3, 2), "constant", CPU, 2, lambda *case: {})
    assert [row.get("error") for row in rows] == ["RuntimeError: no such kernel"] * 2 + [None] * 2
    real = {"us": speed_steps.Competitor("us", "spikecredit", fail)}
    with pytest.raises(RuntimeError, match="no such kernel"):
        speed_steps.measure(fc(10, 3, 2), "constant", CPU, 2, lambda *case: {})


def test_memory_is_that_of_the_step() -> None:
    if not speed_memory.CLEAR.exists():
        pytest.skip("no /proc/self/clear_refs")
    case = {"network": "fc", "input": "spikes", "competitor": "spikecredit", "precision": "float32", "threads": 1}
    grown = speed_memory.needed(**case, quick=True)
    assert grown is not None and 9 < grown < 20  # gradients and Adam's state alone are 3 x 3.2 MB


def test_sections_merge_in_order_and_render(tmp_path: Path) -> None:
    given = argparse.Namespace(repeats=2, quick=True)
    path = tmp_path / "speed-cpu.json"
    grid = {"axis": "steps", "precision": "float32", "repeats": 2}
    scaling = [
        {**grid, "value": value, "competitor": name, **seconds(value * factor)}
        for name, factor in ((speed_steps.REFERENCE, 0.002), (speed_steps.OURS, 0.001))
        for value in (4, 100, 1000)
    ]
    base = {"steps": 25, "batch": 128, "width": 1000}
    speed.save(path, "scaling", {"environment": ENVIRONMENT, "base": base, "rows": scaling})
    kernel = speed_kernel.measure(CPU, given.repeats, given.quick)
    speed.save(path, "kernel", {"environment": ENVIRONMENT, **kernel})
    work = {"name": "FC", "steps": 25, "batch": 128}
    common = {"input": "spikes", "precision": "float32", "inference": seconds(0.01), "memory_mib": 80.0}
    rows = [
        {"competitor": speed_steps.BOUND, "train": seconds(0.040), "train_x": 2.0, **common},
        {"competitor": speed_steps.OURS, "train": seconds(0.042), "train_x": 1.9, **common},
    ]
    speed.save(path, speed.tuned_label("fc"), {"environment": ENVIRONMENT, "work": work, "rows": rows})

    record = json.loads(path.read_text())
    assert list(record["sections"]) == ["fc, tuned malloc", "kernel", "scaling"]
    text = speed_report.render(record)
    assert "| **spikecredit** | float32 | 42.0 (37.8 to 46.2) | 1.90 | 1.05 | 10.0 | – | 80 |" in text
    assert "from 100 to 1,000: snnTorch Leaky, loop 1.00; spikecredit 1.00." in text
    assert "commit 0123456789ab" in text and "norse not installed" in text
    speed_report.plot(record, tmp_path / "plot.svg")
    first = (tmp_path / "plot.svg").read_bytes()
    speed_report.plot(record, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_bytes() == first


def test_kernel_counts_bytes_of_the_dtype() -> None:
    rows = speed_kernel.measure(CPU, 2, quick=True)["rows"]
    bytes_of = {row["dtype"]: row["bytes_per_element"] for row in rows if row["case"] == "spikecredit LIF"}
    assert bytes_of == {"float32": 20, "bfloat16": 10}


def test_unknown_sections_are_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="unknown: cnn; there are fc, conv"):
        speed._sections("fc,cnn")
