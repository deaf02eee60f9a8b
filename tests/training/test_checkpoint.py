"""Checkpoints: exact round trips, every flipped bit found, always one that loads, whenever the process is killed."""

import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikecredit.training import checkpoint
from spikecredit.training.checkpoint import CheckpointError, CheckpointWarning, latest, load, save, sweep

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip


def same(a: Tensor, b: Tensor) -> bool:
    """Equal shape, dtype and bits (so that NaN equals NaN and -0 does not equal 0)."""

    def bits(t: Tensor) -> bytes:
        plain = t.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        return plain.reshape(-1).view(torch.uint8).numpy().tobytes()

    return a.shape == b.shape and a.dtype == b.dtype and bits(a) == bits(b)


def content(step: int, size: int = 4) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors and state that their step determines."""
    ramp = torch.arange(size, dtype=torch.float32)
    return {"model": {"w": ramp + step, "b": torch.tensor(step)}, "optim": {"m": ramp * step}}, {"step": step, "x": [1]}


def write(root: Path, step: int, kind: str = "last", keep: int = 2) -> Path:
    return save(root, kind, step, *content(step), keep)


# ---- round trips -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), max_size=4),
    seed=st.integers(0, 2**31),
    transposed=st.booleans(),
)
def test_any_tensor_returns_bit_for_bit(dtype: torch.dtype, shape: list[int], seed: int, transposed: bool) -> None:
    raw = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=torch.manual_seed(seed))
    tensor = (raw % 2).bool()[..., 0] if dtype is torch.bool else raw.view(dtype)[..., 0]
    tensor = tensor.transpose(0, -1) if transposed and tensor.dim() > 1 else tensor
    with tempfile.TemporaryDirectory() as root:
        view = tensor[:1] if tensor.dim() else tensor
        path = save(root, "last", 7, {"g": {"a tensor/..": tensor, "view": view}}, {})
        found = load(path)
    assert same(found.tensors["g"]["a tensor/.."], tensor)
    assert found.step == 7 and found.path == path


def test_shared_memory_parameters_views_and_empty_groups(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    named = {"base": base, "same": base, "row": base[1], "column": base[:, 1], "p": torch.nn.Parameter(base),
             "conj": torch.tensor([1 + 2j]).conj(), "neg": torch.tensor([1 + 2j]).conj().imag}  # fmt: skip
    found = load(save(tmp_path, "last", 0, {"g": named, "nothing": {}}, {}, config_hash="abc"))
    assert all(same(found.tensors["g"][name], t) for name, t in named.items())
    assert found.tensors["nothing"] == {} and found.config_hash == "abc"
    found.tensors["g"]["base"] += 1  # loaded tensors are writable and independent
    assert same(found.tensors["g"]["same"], base)


@given(value=st.floats())
def test_floats_in_state_return_bit_for_bit(value: float) -> None:
    text = json.dumps({"x": value})
    back = json.loads(text)["x"]
    assert math.isnan(back) if math.isnan(value) else back.hex() == value.hex()


def test_state_round_trip_and_what_json_would_change(tmp_path: Path) -> None:
    deep = {"a": [None, True, "é\ud800", 2**80]}
    state: dict[str, Any] = {"nan": math.nan, "inf": [math.inf, -math.inf, -0.0, 5e-324], "deep": deep}
    found = load(save(tmp_path, "last", 0, {}, state)).state
    assert math.isnan(found.pop("nan")) and math.copysign(1, found["inf"][2]) == -1
    state.pop("nan")
    assert found == state
    cases: list[tuple[Any, str]] = [
        ({"a": (1, 2)}, r"state\.a is a tuple.*a list"),
        ({"a": [{1: 2}]}, r"state\.a\[0\] has the key 1"),
        ({"a": numpy.float64(1)}, "float64"),
        ({"t": torch.ones(1)}, "Tensor"),
    ]
    for wrong, told in cases:
        with pytest.raises(TypeError, match=told):
            save(tmp_path, "last", 1, {}, wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["last-000001-step0"]


def test_wrong_names_and_tensors_are_refused(tmp_path: Path) -> None:
    for group in ["../x", "/x", "..", "", ".hidden", "a/b", "a\\b"]:
        with pytest.raises(ValueError, match="no plain file name"):
            save(tmp_path, "last", 0, {group: {}}, {})
    for kind, step, keep in [("../x", 0, 2), ("last", -1, 2), ("last", 0, 0)]:
        with pytest.raises(ValueError, match="plain name"):
            save(tmp_path, kind, step, {}, {}, keep)
    for tensor in [torch.ones(2).to_sparse(), torch.empty(2, device="meta"), 3]:
        with pytest.raises(TypeError, match="only dense tensors"):
            save(tmp_path, "last", 0, {"g": {"t": tensor}}, {})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="__metadata__"):
        save(tmp_path, "last", 0, {"g": {"__metadata__": torch.ones(1)}}, {})
    assert list(tmp_path.iterdir()) == []


# ---- series ----------------------------------------------------------------------------------------------------------


def test_series_are_pruned_apart_and_the_last_save_is_the_latest(tmp_path: Path) -> None:
    root = tmp_path / "new" / "run"
    for step in (10, 20, 30, 30):
        write(root, step)
    write(root, 5, "best", keep=1)
    write(root, 6, "best", keep=1)
    names = sorted(path.name for path in root.iterdir())
    assert names == ["best-000002-step6", "last-000003-step30", "last-000004-step30"]
    assert latest(root, "last").path.name == "last-000004-step30"
    write(root, 15)  # resumed from an earlier step: what was saved last counts, and is not pruned
    assert latest(root, "last").step == 15
    assert latest(root, "best").step == 6


def test_two_writers_of_one_series_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "_versions", lambda root, kind: [])  # has not seen the other's folder
    assert write(tmp_path, 1).name == "last-000002-step1"


def test_missing_checkpoints_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder; start without resuming"):
        latest(tmp_path / "x", "last")
    write(tmp_path, 1, "best")
    with pytest.raises(CheckpointError, match=r"kinds there: best\); start without resuming"):
        latest(tmp_path, "last")
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load(tmp_path / "x")


# ---- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path, draw: random.Random) -> bytes:
    """Flip one random bit; returns what was there."""
    before = path.read_bytes()
    data = bytearray(before)
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return before


def missed_flips(path: Path, draws: int) -> list[str]:
    """Files of a checkpoint in which a flipped bit went unnoticed; the files are taken in turn."""
    draw, missed = random.Random(0), []
    files = sorted(path.iterdir())
    for number in range(draws):
        file = files[number % len(files)]
        before = flip(file, draw)
        try:
            load(path)
            missed.append(file.name)
        except CheckpointError:
            pass
        file.write_bytes(before)
    load(path)
    return missed


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    assert missed_flips(write(tmp_path, 3), 2000) == []


def test_the_flip_detector_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_digest", lambda data: "0" * 64)
    assert {"model.safetensors", "state.json"} <= set(missed_flips(write(tmp_path, 3), 400))


def test_every_truncation_and_growth_is_detected(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    for file in sorted(path.iterdir()):
        before = file.read_bytes()
        for data in [*(before[:n] for n in range(len(before))), before + b" ", before + b"\0"]:
            file.write_bytes(data)
            with pytest.raises(CheckpointError):
                load(path)
        file.write_bytes(before)
    load(path)


def test_falls_back_to_the_newest_valid_one_and_says_so(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, keep=3)
    flip(tmp_path / "last-000003-step3" / "model.safetensors", random.Random(1))
    with pytest.warns(CheckpointWarning, match=r"fell back to last-000002-step2.*last-000003-step3.*SHA-256"):
        assert latest(tmp_path, "last").step == 2
    (tmp_path / "last-000002-step2" / "manifest.json").unlink()
    with pytest.warns(CheckpointWarning, match=r"000003.*; .*000002.*no manifest\.json"):
        assert latest(tmp_path, "last").step == 1
    shutil.rmtree(tmp_path / "last-000001-step1")
    with pytest.raises(CheckpointError, match=r"(?s)every checkpoint.*restore.*000003.*000002"):
        latest(tmp_path, "last")


def test_missing_extra_and_linked_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "run", 3)
    extra = path / "optim2.safetensors"
    extra.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"do not belong: \['optim2"):
        load(path)
    extra.unlink()
    model = path / "model.safetensors"
    moved = model.rename(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=r"missing: \['model"):
        load(path)
    model.symlink_to(moved)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)
    model.unlink()
    model.mkdir()
    with pytest.raises(CheckpointError):
        load(path)
    model.rmdir()
    os.mkfifo(model)  # must not hang
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(path)
    model.unlink()
    moved.rename(model)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(CheckpointError, match="a link is not followed"):
        load(tmp_path / "link")
    assert load(path).step == 3


def forge(path: Path, **changes: Any) -> None:
    """Rewrite a manifest, with a right digest."""
    manifest = json.loads((path / "manifest.json").read_bytes()) | changes
    (path / "manifest.json").write_bytes(checkpoint._manifest_bytes(manifest))


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "x.pkl"])
def test_forged_names_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, 3)
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    forge(path, files=files | {name: files["state.json"]})
    with pytest.raises(CheckpointError, match="no file of a checkpoint"):
        load(path)


def test_forged_content_and_newer_formats_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    (path / "model.safetensors").write_bytes(b"\xff" * 100)
    forge(path, files=files | {"model.safetensors": {"sha256": checkpoint._digest(b"\xff" * 100), "size": 100}})
    with pytest.raises(CheckpointError, match="no valid content"):
        load(path)
    cases: list[tuple[str, Any]] = [
        ("files", []),
        ("files", {}),
        ("step", "3"),
        ("files", {"state.json": {"size": -1}}),
    ]
    for key, wrong in cases:
        forge(path, **{key: wrong})
        with pytest.raises(CheckpointError, match="damaged"):
            load(path)
    forge(path, format=2, files=files)
    with pytest.raises(CheckpointError, match=r"format 2 is newer than 1.*update"):
        load(path)


# ---- disks that refuse -----------------------------------------------------------------------------------------------


def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    real = os.fsync
    for failing_call in range(5):  # at each of the four files and at the folder
        calls = iter(range(100))

        def fsync(handle: int, calls: Iterator[int] = calls, failing_call: int = failing_call) -> None:
            if next(calls) == failing_call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(
            OSError, match=r"No space left.*checkpoints are intact.*needs [\d,]+ bytes, [\d,]+ are free"
        ):
            write(tmp_path, 2)
        monkeypatch.setattr(os, "fsync", real)
        assert [path.name for path in tmp_path.iterdir()] == ["last-000001-step1"]
    assert latest(tmp_path, "last").step == 1


LIMITED = """
import resource, signal, sys
import torch
from spikecredit.training.checkpoint import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(sys.argv[1], "last", 2, {"model": {"w": torch.zeros(1_000_000)}}, {})
except OSError as error:
    print(error)
"""


def test_a_real_write_that_fails_halfway_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert "File too large); earlier checkpoints are intact" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["last-000001-step1"]


def test_read_only_folder_raises_permission_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)  # chmod does not stop root, who may be running this
    with pytest.raises(PermissionError, match=r"not written.*choose another, or change its permissions"):
        write(tmp_path, 1)


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(named: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_serialise", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
    assert not checkpoint._active


def test_sweep_removes_the_dead_only(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, other = checkpoint._HOST, "0" * 8
    stay = [f".tmp-last-{host}-{os.getppid()}-00000000", f".tmp-last-{host}-{os.getpid()}-11111111", ".tmp-mine",
            f".tmp-last-{other}-{dead.pid}-22222222"]  # fmt: skip
    go = [f".tmp-last-{host}-{dead.pid}-00000000", f".tmp-last-{host}-{os.getpid()}-33333333",
          f".tmp-last-{other}-{dead.pid}-44444444"]  # fmt: skip
    for name in stay + go:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    os.utime(tmp_path / go[2], (0, 0))
    checkpoint._active.add(tmp_path / stay[1])
    try:
        removed = sweep(tmp_path)
    finally:
        checkpoint._active.clear()
    assert {path.name for path in removed} == set(go)
    assert {path.name for path in tmp_path.iterdir()} == set(stay)
    assert sweep(tmp_path / "missing") == []


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

KILLS = 100
SIZE = 400_000  # float32 values per tensor: 3.2 MB a checkpoint


def save_for_ever(root: Path, step: int) -> None:
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    while True:
        step += 1
        save(root, "last", step, *content(step, SIZE))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_any_moment_leaves_a_checkpoint(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    draw, landed = random.Random(1), 0
    save(tmp_path, "last", 0, *content(0, SIZE))
    step = 0
    for _ in range(KILLS):
        before = len(list(tmp_path.iterdir()))
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(tmp_path, step)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.003, 0.15))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child failed before it was killed"
        landed += any(path.name.startswith(".tmp-last") for path in tmp_path.iterdir())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no falling back: what bears a checkpoint's name is whole
            found = latest(tmp_path, "last")
        tensors, state = content(found.step, SIZE)
        assert found.step >= step and found.state == state
        assert all(same(found.tensors[group][name], t) for group, named in tensors.items() for name, t in named.items())
        sweep(tmp_path)
        assert all(path.name.startswith("last-") for path in tmp_path.iterdir())
        # keep=2, and one more if the kill came before the pruning; several such kills in a row each leave one.
        assert len(list(tmp_path.iterdir())) <= max(3, before + 1)
        step = found.step
    print(f"{landed} of {KILLS} kills landed inside a save; {step} checkpoints were written")
    record_property("kills_inside_a_save", landed)
    assert landed > 0 and step > 0


# ---- optimisers and random numbers -----------------------------------------------------------------------------------


def network(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)).to(dtype)


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(step)).to(next(net.parameters()).dtype)

        def closure(x: Tensor = x) -> float:
            optimizer.zero_grad()
            loss = (net(x) ** 2).sum()
            loss.backward()
            return loss.item()

        optimizer.step(closure)


def two_groups(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    first, *others = parameters
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 0.1}, {"params": others}]
    return torch.optim.Adam(groups, lr=0.01)


MAKERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95)),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "adam_tensor_lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "groups": two_groups,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
def test_optimizer_continues_bit_for_bit(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    net = network(dtype)
    optimizer = MAKERS[name](net.parameters())
    train(net, optimizer, range(3))
    tensors, state = checkpoint.pack_optimizer(optimizer)
    found = load(save(tmp_path, "last", 3, {"model": net.state_dict(), "optim": tensors}, {"optim": state}))
    train(net, optimizer, range(3, 8))

    other = network(dtype)
    other.load_state_dict(found.tensors["model"])
    resumed = MAKERS[name](other.parameters())
    checkpoint.unpack_optimizer(resumed, found.tensors["optim"], found.state["optim"])
    groups, expected = resumed.state_dict()["param_groups"], optimizer.state_dict()["param_groups"]
    assert groups == expected
    assert [type(v) for g in groups for v in g.values()] == [type(v) for g in expected for v in g.values()]
    train(other, resumed, range(3, 8))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    again, _ = checkpoint.pack_optimizer(resumed)
    assert all(same(a, again[key]) for key, a in checkpoint.pack_optimizer(optimizer)[0].items())


def test_optimizer_state_keeps_its_own_precision_and_refuses_objects() -> None:
    net = network(torch.bfloat16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = next(net.parameters())
    optimizer.state[first]["master"] = torch.full((4, 5), 1 / 3)  # float32 beside a bfloat16 parameter
    tensors, state = checkpoint.pack_optimizer(optimizer)
    optimizer.state.clear()
    checkpoint.unpack_optimizer(optimizer, tensors, json.loads(json.dumps(state)))
    assert same(optimizer.state[first]["master"], torch.full((4, 5), 1 / 3))
    optimizer.param_groups[0]["schedule"] = object()
    with pytest.raises(TypeError, match=r"optimizer\.param_groups\.0\.schedule is a object"):
        checkpoint.pack_optimizer(optimizer)


def test_random_states_continue_bit_for_bit(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [*torch.randn(5).tolist(), *numpy.random.randn(3), random.gauss(0, 1), random.random()]

    draws()  # leaves numpy's and python's second Gaussian cached
    tensors, state = checkpoint.pack_rng()
    found = load(save(tmp_path, "last", 0, {"rng": tensors}, {"rng": state}))
    expected = draws()
    draws()
    checkpoint.unpack_rng(found.tensors["rng"], found.state["rng"])
    assert draws() == expected
    with pytest.warns(CheckpointWarning, match="saved with a CUDA random state, resumed on cpu"):
        checkpoint.unpack_rng(found.tensors["rng"] | {"cuda": torch.ones(1)}, found.state["rng"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_tensors_and_random_state(tmp_path: Path) -> None:
    tensors, state = checkpoint.pack_rng("cuda")
    found = load(save(tmp_path, "last", 0, {"rng": tensors, "g": {"x": torch.ones(3, device="cuda")}}, {"rng": state}))
    assert same(found.tensors["g"]["x"], torch.ones(3))
    expected = torch.randn(5, device="cuda")
    checkpoint.unpack_rng(found.tensors["rng"], found.state["rng"], "cuda")
    assert torch.equal(torch.randn(5, device="cuda"), expected)
