"""Checkpoints that survive kill -9, full disks and flipped bits, and contain no pickle.

A checkpoint is a folder `<root>/<kind>-<version>-step<step>/`: one `<group>.safetensors` per group of tensors (model,
optim, rng), `state.json`, and `manifest.json` with format, step, configuration hash, and each file's size and SHA-256.

* Written as `.tmp-*` beside its final name, every file and the folder fsynced, manifest last, then renamed: a folder
  with the final name is complete. No folder is ever replaced, because that is not atomic: each save gets the next
  version, the highest valid version is the current one, and older ones are pruned only after the rename is on disk.
  Versions count saves, not steps: a run that went back to step 100 must not find step 200 of its former life newer.
* Read with every byte checked before anything is parsed: safetensors alone notices no flipped bit in its payload.
* `latest` falls back to the newest valid checkpoint and warns which ones were corrupt.

JSON follows Python's extension (NaN, Infinity); floats are written by repr, so that they return bit for bit.
"""

import errno
import hashlib
import json
import os
import platform
import random
import re
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # a plain file name: no separator, no leading dot, so no `..`
_FOLDER = re.compile(r"(?P<kind>.+)-(?P<version>\d{6,})-step(?P<step>\d+)")
_TEMPORARY = re.compile(r"\.tmp-.+-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
_FOREIGN_AGE = 24 * 3600  # seconds; whether another machine's process lives cannot be asked, and no save lasts a day
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_active: set[Path] = set()  # temporary folders this process is writing now (it may save in several threads)


class CheckpointError(RuntimeError):
    """A checkpoint is missing, corrupt, or from a newer format. The message says which, and what to do."""


class CheckpointWarning(UserWarning):
    """A checkpoint was passed over, or only part of it could be restored."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: `tensors[group][name]` on the CPU, and `state` as JSON gives it back."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    path: Path
    step: int
    config_hash: str


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(
    root: Path | str,
    kind: str,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int = 2,
    *,
    config_hash: str = "",
) -> Path:
    """Write a checkpoint, make it the current one of its kind, and prune all but the newest `keep`.

    Args:
        root: folder of all checkpoints of a run; made if missing.
        kind: "last", "best", ...: the series this belongs to.
        step: training step, for the name and for `Checkpoint.step`.
        tensors: group -> name -> tensor; any device, layout strided, memory may be shared (it is stored twice).
        state: JSON-able: dict with str keys, list, str, int, float, bool, None.
        config_hash: stored, compared by the caller.
    Returns:
        the folder.
    Raises:
        OSError, of the cause's errno and class: not written; earlier checkpoints are intact, nothing is left behind.
        ValueError, TypeError: a name, tensor or state value that cannot be stored exactly.
    """
    root = Path(root)
    if not _GROUP.fullmatch(kind) or keep < 1 or step < 0:
        raise ValueError(f"save(kind={kind!r}, step={step}, keep={keep}): need a plain name, step >= 0 and keep >= 1")
    for group in tensors:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"group {group!r} is no plain file name; use letters, digits, '_', '-', '.'")
    _check_json(dict(state), "state")
    stored = {group: _storable(group, named) for group, named in tensors.items()}
    state_bytes = json.dumps(dict(state), indent=1).encode()
    needed = len(state_bytes) + sum(t.numel() * t.element_size() for named in stored.values() for t in named.values())
    temporary: Path | None = None
    try:
        _make_root(root)
        temporary = _temporary(root, kind)
        _active.add(temporary)
        os.mkdir(temporary)
        files = {STATE: _write(temporary / STATE, state_bytes)}
        for group, named in stored.items():
            name = f"{group}.safetensors"
            files[name] = _write(temporary / name, _serialise(named))
        manifest = {"config_hash": config_hash, "files": files, "format": FORMAT, "kind": kind, "step": step}
        _write(temporary / MANIFEST, _manifest_bytes(manifest))
        _sync_folder(temporary)
        path = _publish(temporary, root, kind, step)
        _sync_folder(root)
    except OSError as error:
        raise _explain(error, root, needed) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # gone already, if it was renamed
            _active.discard(temporary)
    for _, old in _versions(root, kind)[keep:]:
        _remove(old)
    return path


def _check_json(value: Any, where: str) -> None:
    """JSON would turn tuples into lists and number keys into text without a word."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}, but JSON's keys are text; use {str(key)!r}")
            _check_json(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        hint = "a list" if isinstance(value, tuple) else "str, int, float, bool, None, list or dict"
        raise TypeError(f"{where} is a {type(value).__name__}, which JSON does not give back; store {hint}")


def _storable(group: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, as safetensors demands."""
    seen: set[int] = set()
    stored: dict[str, Tensor] = {}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            what = f"{tensor.layout} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{group}[{name!r}] is {what}; only dense tensors with data can be stored")
        if name == "__metadata__":
            raise ValueError(f"{group}: the name '__metadata__' is safetensors' own; rename the tensor")
        plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    return stored


def _serialise(named: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save as to_bytes

    return to_bytes(named)


def _temporary(root: Path, name: str) -> Path:
    return root / f".tmp-{name}-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"


def _make_root(root: Path) -> None:
    if not root.is_dir():
        os.makedirs(root, exist_ok=True)
        _sync_folder(root.parent)


def _write(path: Path, data: bytes) -> dict[str, Any]:
    """Write and fsync one new file; its manifest entry."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The one spelling of a manifest, ending with its own digest: whatever bit flips, the bytes differ from this."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = _digest(json.dumps(body, sort_keys=True).encode())
    return json.dumps({**body, "sha256": digest}, sort_keys=True, indent=1).encode()


def _sync_folder(path: Path) -> None:
    """Make names durable. Windows cannot open folders and orders its own metadata."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(temporary: Path, root: Path, kind: str, step: int) -> Path:
    """Rename to the next version; if another process took that name meanwhile, to the one after."""
    versions = _versions(root, kind)
    version = versions[0][0] if versions else 0
    while True:
        version += 1
        path = root / f"{kind}-{version:06d}-step{step}"
        try:
            os.rename(temporary, path)  # fails if a folder with content is there
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return path


def _versions(root: Path, kind: str) -> list[tuple[int, Path]]:
    """(version, folder) of every checkpoint of a kind, newest first; complete or not is for `load` to say."""
    found = []
    for entry in os.listdir(root):
        match = _FOLDER.fullmatch(entry)
        if match and match["kind"] == kind:
            found.append((int(match["version"]), root / entry))
    return sorted(found, reverse=True)


def _remove(path: Path) -> None:
    """Delete a checkpoint: renamed first, so that no half of it ever bears a checkpoint's name."""
    gone = _temporary(path.parent, "old")
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return  # another process pruned it
    shutil.rmtree(gone, ignore_errors=True)  # what remains is swept at the next start


def _explain(error: OSError, root: Path, needed: int) -> OSError:
    """The same error, with what was wanted and what to do; OSError picks the subclass by errno."""
    text = f"checkpoint not written ({error.strerror or error}); earlier checkpoints are intact"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        here = next((p for p in (root, *root.parents) if p.exists()), Path())
        free = shutil.disk_usage(here).free
        text += f". It needs {needed:,} bytes, {free:,} are free: make room or choose another folder"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        text += ". The folder cannot be written: choose another, or change its permissions"
    return OSError(error.errno, text, str(root))


def sweep(root: Path | str) -> list[Path]:
    """Remove the temporary folders that killed processes left; call it at the start of a run. Returns what it removed.

    A living process's folder stays, and so does a folder that this process is writing now. A folder from another
    machine (shared file system) stays for a day, because its process cannot be asked.
    """
    root = Path(root)
    removed = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        match = _TEMPORARY.fullmatch(path.name)
        if not match or path in _active or path.is_symlink() or not path.is_dir():
            continue
        try:
            stale = time.time() - path.stat().st_mtime > _FOREIGN_AGE
        except FileNotFoundError:
            continue
        pid = int(match["pid"])
        if (pid == os.getpid() or not _alive(pid)) if match["host"] == _HOST else stale:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's process
    return True


# ---- reading ---------------------------------------------------------------------------------------------------------


def load(path: Path | str) -> Checkpoint:
    """Read one checkpoint folder after verifying every byte.

    Raises:
        CheckpointError: missing, incomplete, extra, renamed, linked or changed files, or a newer format.
    """
    path = Path(path)
    try:
        return _load(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error} ({error.filename})") from error


def _load(path: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    if path.is_symlink() or not path.is_dir():
        raise CheckpointError(f"{path}: no checkpoint folder (a link is not followed)")
    manifest = _read_manifest(path)
    files, present = manifest["files"], set(os.listdir(path))
    expected = {*files, MANIFEST}
    if present != expected:
        missing, extra = sorted(expected - present), sorted(present - expected)
        raise CheckpointError(f"{path}: files missing: {missing}, files that do not belong: {extra}")
    tensors: dict[str, dict[str, Tensor]] = {}
    state: dict[str, Any] = {}
    for name, entry in files.items():
        data = _read_file(path / name, entry["size"])
        if len(data) != entry["size"]:
            raise CheckpointError(f"{path / name}: is not {entry['size']} bytes long: truncated or grown")
        if _digest(data) != entry["sha256"]:
            raise CheckpointError(f"{path / name}: content changed since it was written (SHA-256 differs)")
        try:
            if name == STATE:
                state = json.loads(data)
            else:
                tensors[name.removesuffix(".safetensors")] = from_bytes(data)
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:  # intact, so it was made like this
            raise CheckpointError(f"{path / name}: intact, but no valid content: {error}; do not trust it") from error
    return Checkpoint(tensors, state, path, manifest["step"], manifest["config_hash"])


def _read_file(path: Path, size: int) -> bytes:
    """At most `size` + 1 bytes. Links, devices and pipes are refused: reading them leaves the folder or hangs."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        if path.is_symlink() or not stat.S_ISREG(os.fstat(handle).st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        return file.read(size + 1)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, its own digest, format, names and fields checked."""
    damaged = f"{path}: {MANIFEST} is damaged"
    if not (path / MANIFEST).exists():
        raise CheckpointError(f"{path}: no {MANIFEST}: never completed, or not a checkpoint")
    data = _read_file(path / MANIFEST, 1 << 20)
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(damaged) from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is int and version > FORMAT:
        raise CheckpointError(f"{path}: format {version} is newer than {FORMAT}, which this version reads; update it")
    if version != FORMAT or _manifest_bytes(manifest) != data:
        raise CheckpointError(damaged)
    files, fields = manifest.get("files"), {"config_hash": str, "kind": str, "step": int}
    sound = all(type(manifest.get(key)) is kind for key, kind in fields.items())
    if not sound or not isinstance(files, dict) or STATE not in files:
        raise CheckpointError(damaged)
    for name, entry in files.items():
        group, dot, suffix = name.rpartition(".")
        if name != STATE and not (dot + suffix == ".safetensors" and _GROUP.fullmatch(group)):
            raise CheckpointError(f"{path}: the manifest names {name!r}, no file of a checkpoint; do not trust it")
        typed = isinstance(entry, dict) and type(entry.get("size")) is int and type(entry.get("sha256")) is str
        if not typed or entry["size"] < 0:
            raise CheckpointError(damaged)
    checked: dict[str, Any] = manifest
    return checked


def latest(root: Path | str, kind: str) -> Checkpoint:
    """The newest valid checkpoint of a kind; warns (CheckpointWarning) about newer ones that were passed over.

    Raises:
        CheckpointError: there is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such folder; start without resuming, or give the folder of an earlier run")
    corrupt: list[str] = []
    for _, path in _versions(root, kind):
        try:
            found = load(path)
        except CheckpointError as error:
            corrupt.append(str(error))
            continue
        if corrupt:
            told = "; ".join(corrupt)
            warnings.warn(f"fell back to {path.name}, because of {told}", CheckpointWarning, stacklevel=2)
        return found
    if corrupt:
        raise CheckpointError(
            f"{root}: every checkpoint of kind {kind!r} is corrupt; start anew, or restore the folder from a copy:\n"
            + "\n".join(corrupt)
        )
    kinds = sorted({match["kind"] for name in os.listdir(root) if (match := _FOLDER.fullmatch(name))})
    raise CheckpointError(
        f"{root}: no checkpoint of kind {kind!r} (kinds there: {', '.join(kinds) or 'none'}); "
        "start without resuming, or give the folder of an earlier run"
    )


# ---- optimisers and random numbers -----------------------------------------------------------------------------------


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, JSON) of an optimiser's state_dict, exact down to tuples, integer keys and None.

    Errors: TypeError, if the state holds something that is neither tensor, number, text, None nor a container of these.
    """
    tensors: dict[str, Tensor] = {}

    def pack(value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            tensors[where] = value
            return {"tensor": where}
        if isinstance(value, dict):
            return {"dict": [[key, pack(item, f"{where}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            name = "list" if isinstance(value, list) else "tuple"
            return {name: [pack(item, f"{where}.{index}") for index, item in enumerate(value)]}
        if value is None or isinstance(value, str | int | float):
            return value
        raise TypeError(f"the optimiser's {where} is a {type(value).__name__}, which a checkpoint cannot store")

    return tensors, pack(optimizer.state_dict(), "optimizer")


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Restore what `pack_optimizer` gave into an optimiser of the same class over the same parameters, bit for bit."""

    def unpack(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        ((name, content),) = value.items()
        if name == "tensor":
            return tensors[content].clone()
        if name == "dict":
            return {key: unpack(item) for key, item in content}
        return (list if name == "list" else tuple)(unpack(item) for item in content)

    restored = unpack(state)
    optimizer.load_state_dict(restored)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    indices = [i for group in restored["param_groups"] for i in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):  # torch casts to the parameter's dtype: undo
        for key, value in restored["state"].get(index, {}).items():
            now = optimizer.state[parameter][key]
            if isinstance(value, Tensor) and now.dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(now.device)


def pack_rng(device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, JSON) of the global random states: torch on the CPU and, for a CUDA device, on it; numpy; python."""
    import numpy

    device = torch.device(device)
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([int(key) for key in keys], dtype=torch.int64),
        "python": torch.tensor(words, dtype=torch.int64),
    }
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    state = {"numpy": [int(position), int(has_gauss), float(cached)], "python": [version, gauss]}
    return tensors, state


def unpack_rng(tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
    """Restore what `pack_rng` gave. Warns (CheckpointWarning) if only one of then and now is a CUDA device."""
    import numpy

    device = torch.device(device)
    torch.set_rng_state(tensors["torch"])
    if ("cuda" in tensors) != (device.type == "cuda"):
        text = f"saved {'with' if 'cuda' in tensors else 'without'} a CUDA random state, resumed on {device.type}"
        warnings.warn(f"{text}: random numbers will differ from the uninterrupted run", CheckpointWarning, stacklevel=2)
    elif device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], device)
    position, has_gauss, cached = state["numpy"]
    numpy.random.set_state(("MT19937", tensors["numpy"].numpy().astype("uint32"), position, has_gauss, cached))
    version, gauss = state["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
