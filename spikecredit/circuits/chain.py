"""The layers of a snnTorch model in order: read from an `nn.Sequential`, or from one run of any other module."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Chain = list[tuple[str, nn.Module]]
"""Layers in order, with the names by which errors call them."""

STATES = ("syn_exc", "syn_inh", "spk", "syn", "mem")
"""The buffers in which snnTorch's neurons keep their state, in the order in which `forward` takes them."""


def chain_of(model: nn.Module, sample: Tensor | tuple[Any, ...] | None, neurons: tuple[type, ...]) -> Chain:
    """The layers of a model in order.

    An `nn.Sequential` is read. Any other module is run once on the sample, in evaluation mode and without gradients,
    and its state is put back: every call of a layer and every operation of torch between two layers is recorded, and
    the data are followed from call to call. Refused is what is no chain of layers that repeats itself at every step.

    Args:
        model: the module. sample: what its `forward` takes; None for an `nn.Sequential`.
        neurons: the classes that keep a state over time, and whose inner modules are their own.
    Raises:
        ValueError: there is no sample, or the order is no plain chain. TypeError: the module cannot be called so.
    """
    if isinstance(model, (nn.Sequential, *neurons)):
        found = list(_sequence(model, "", neurons))
        inside = [name for name, module in found if not _is_leaf(module, neurons)]
        if not inside:
            _check_once(found)
            return found
        if sample is None:
            raise ValueError(f"{inside[0]} is a module of your own, whose order is unknown: give a sample input too")
    if sample is None:
        raise ValueError(
            f"{type(model).__name__} is no nn.Sequential: the order of its layers is in its forward. Give a sample "
            "input, on which it is run once: from_snntorch(model, sample)"
        )
    recorder = _record(model, sample if isinstance(sample, tuple) else (sample,), neurons)
    return _follow(recorder)


def _is_leaf(module: nn.Module, neurons: tuple[type, ...]) -> bool:
    return isinstance(module, neurons) or not any(True for _ in module.children())


def _sequence(module: nn.Module, name: str, neurons: tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for key, child in module._modules.items():  # named_children would leave out a module's second place
            assert child is not None
            yield from _sequence(child, f"{name}.{key}" if name else key, neurons)
    else:
        yield name or type(module).__name__, module


def _check_once(chain: Chain) -> None:
    seen: dict[int, str] = {}
    for name, module in chain:
        before = seen.setdefault(id(module), name)
        if before is not name and any(True for _ in [*module.parameters(), *module.buffers()]):
            raise ValueError(f"{name} and {before} are one module at two places: give each place its own, a deepcopy")


@dataclass
class Call:
    """One call of a layer: its input, its main output, and a neuron's state tensors before and after."""

    name: str
    module: nn.Module
    given: Any
    out: Any = None
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()


@dataclass
class Operation:
    """One operation of torch outside the layers."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def in_place(self) -> bool:
        """Whether it writes into its first argument: `mul_`, `__imul__`."""
        return self.name.startswith("__i") or (self.name.endswith("_") and not self.name.endswith("__"))


class _Recorder(TorchFunctionMode):
    def __init__(self, sample: tuple[Any, ...]) -> None:
        super().__init__()
        self.sample = [value for value in sample if isinstance(value, Tensor)]
        self.inside = 0
        self.calls: list[Call] = []
        self.operations: list[Operation] = []
        self.made_by: dict[int, Call | Operation] = {}  # the last maker of a tensor; both lists keep the tensors alive

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.inside:
            name, same = getattr(func, "__name__", str(func)), bool(args) and out is args[0]
            if same and name == "dropout":  # in evaluation; data are followed by their identity
                out, same = out.view_as(out), False
            operation = Operation(name, args, kwargs or {}, out)
            self.operations.append(operation)
            if not same or operation.in_place:  # else nothing was done, as by flatten on what is flat
                for tensor in out if isinstance(out, tuple | list) else (out,):
                    if isinstance(tensor, Tensor):
                        self.made_by[id(tensor)] = operation
        return out


def _record(model: nn.Module, sample: tuple[Any, ...], neurons: tuple[type, ...]) -> _Recorder:
    recorder = _Recorder(sample)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.inside += 1
        if recorder.inside == 1:
            names = [state for state in STATES if state in module._buffers] if isinstance(module, neurons) else []
            given = dict(zip(names, args[1:], strict=False)) | kwargs
            states = tuple(getattr(module, n) if given.get(n) is None else given[n] for n in names)
            recorder.calls.append(Call(named[module], module, args[0] if args else None, before=states))

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        if recorder.inside == 1:
            call = recorder.calls[-1]
            if out is call.given:  # dropout in evaluation: data are followed by their identity
                out = out.view_as(out)
            call.out = out[0] if isinstance(out, tuple) else out
            call.after = tuple(getattr(module, n) for n in STATES if n in module._buffers) if call.before else ()
            for state in call.after:
                recorder.made_by[id(state)] = call
            recorder.made_by[id(call.out)] = call
        recorder.inside -= 1
        return out

    leaves = list(_leaves(model, "", neurons))
    named = {module: name for name, module in leaves}
    with _as_it_was(model, neurons), ExitStack() as hooks:
        for module in named:
            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        with torch.no_grad(), recorder:
            model(*sample)
    return recorder


def _leaves(module: nn.Module, name: str, neurons: tuple[type, ...]) -> Iterator[tuple[str, nn.Module]]:
    if _is_leaf(module, neurons):
        yield name, module
    else:
        for key, child in module.named_children():
            yield from _leaves(child, f"{name}.{key}" if name else key, neurons)


@contextmanager
def _as_it_was(model: nn.Module, neurons: tuple[type, ...]) -> Iterator[None]:
    """Evaluation mode and neurons at rest inside; afterwards modes, states and random numbers are as before."""
    training = {module: module.training for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in model.modules()}
    with torch.random.fork_rng():
        try:
            model.eval()
            for module in buffers:
                states = [name for name in STATES if name in module._buffers] if isinstance(module, neurons) else []
                for name in states:
                    setattr(module, name, torch.zeros_like(getattr(module, name)))
            yield
        finally:
            for module, mode in training.items():
                module.training = mode
                module._buffers.update(buffers[module])


UNCHANGED = ("to", "float", "double", "contiguous", "clone", "cpu", "cuda")
STEPS = ("__getitem__", "select", "unbind")
FLATTENS = ("flatten", "view", "reshape", "view_as", "reshape_as")


def _follow(recorder: _Recorder) -> Chain:
    """Check that the calls are the same chain at every step, and return it with the operations between as layers."""
    calls = recorder.calls
    if not calls:
        raise ValueError("the model called none of its layers on this sample")
    again = [index for index, call in enumerate(calls) if call.module is calls[0].module]
    period = again[1] if len(again) > 1 else len(calls)
    order = [call.name for call in calls[:period]]
    if len(set(order)) < period or [call.name for call in calls] != order * (len(calls) // period):
        counts = {name: sum(call.name == name for call in calls) for name in dict.fromkeys(c.name for c in calls)}
        raise ValueError(
            "the layers are not called in one order at every step: "
            f"{', '.join(f'{name} {count} times' for name, count in counts.items())}. What runs before or after the "
            "loop over time, or twice in a step, is no part of a chain: move it out of the model"
        )
    layers: list[Chain] = []
    for start in range(0, len(calls), period):
        step, between = calls[start : start + period], []
        for index, call in enumerate(step):
            _check_state(call, calls[start + index - period] if start else None)
            path = _path(recorder, call.given, call, None if index == 0 else step[index - 1])
            between.append([*path, (call.name, call.module)])
        layers.append([pair for pairs in between for pair in pairs])
    first = layers[0]
    for others in layers[1:]:
        if [(name, str(module)) for name, module in others] != [(name, str(module)) for name, module in first]:
            raise ValueError("what the model does between its layers changes from step to step")
    _check_states_untouched(recorder)
    return first


def _path(recorder: _Recorder, tensor: Any, reader: Call, expected: Call | None) -> Chain:
    """The operations from the layer before, or from the sample, to what `reader` was given, as layers of torch."""
    path: Chain = []
    source = "the sample" if expected is None else expected.name
    step = False  # whether one time step was taken out of what is followed now
    while True:
        maker = recorder.made_by.get(id(tensor))
        if expected is None and maker is None and any(tensor is given for given in recorder.sample):
            return path[::-1]
        if isinstance(maker, Call):
            if maker is expected and tensor is maker.out:
                return path[::-1]
            what = "output" if tensor is maker.out else "state"
            raise ValueError(
                f"{reader.name} reads the {what} of {maker.name}, not {source}{' alone' if maker is expected else ''}: "
                "only a plain chain, each layer reading the output (of neurons: the spikes) of the one before, is moved"
            )
        if maker is None:
            raise ValueError(f"{reader.name} reads what comes neither from {source} nor from another layer")
        given = maker.args[0] if maker.args else None
        if isinstance(given, tuple | list):
            given = None
        if expected is None and maker.name in STEPS and isinstance(given, Tensor) and given.ndim == tensor.ndim + 1:
            tensor, step = given, True
            continue
        layer = _as_layer(maker, given)
        if expected is None and (layer is None or (step and not isinstance(layer, nn.Identity))):
            raise ValueError(
                f"before {reader.name} the model calls {maker.name} on its input. What encodes or scales an input is "
                "no part of a network here: do it before, and give the network the result (sc.encode has encoders)"
            )
        if layer is None:
            raise ValueError(
                f"between {source} and {reader.name} the model calls {maker.name}, which is no layer that can be moved "
                "(pooling, flattening and dropout can). Only a plain chain of layers is"
            )
        if not isinstance(layer, nn.Identity):
            path.append((f"{maker.name} before {reader.name}", layer))
        tensor = given


def _as_layer(operation: Operation, given: Any) -> nn.Module | None:
    """The layer of torch that does the same as an operation on a batch; None if there is none here."""
    if not isinstance(given, Tensor) or not isinstance(operation.out, Tensor):
        return None
    name, rest = operation.name, operation.args[1:]
    if name in UNCHANGED:
        return nn.Identity() if operation.out.dtype == given.dtype else None
    if name in FLATTENS:
        flat = given.ndim > 1 and operation.out.shape == (given.shape[0], given[0].numel())
        return nn.Flatten(1 - given.ndim) if flat and given.ndim > 2 else nn.Identity() if flat else None
    keys: tuple[str, ...]
    if name == "max_pool2d":
        keys = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        kind: type[nn.Module] = nn.MaxPool2d
    elif name == "avg_pool2d":
        keys = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        kind = nn.AvgPool2d
    elif name == "dropout":
        keys, kind = ("p", "training", "inplace"), nn.Dropout
    else:
        return None
    options = dict(zip(keys, rest, strict=False)) | operation.kwargs
    options.pop("training", None)
    options.pop("inplace", None)
    return kind(**options)


def _check_state(call: Call, previous: Call | None) -> None:
    """A neuron starts at rest and is given what it returned."""
    if previous is None:
        if any(isinstance(state, Tensor) and bool(state.any()) for state in call.before):
            raise ValueError(f"{call.name} does not start at rest: its first state is not zero")
    elif any(now is not then for now, then in zip(call.before, previous.after, strict=True)):
        raise ValueError(
            f"{call.name} is not given the state that it returned at the step before: the loop changes it on the way, "
            "or starts the neurons anew in the middle of a sequence"
        )


def _check_states_untouched(recorder: _Recorder) -> None:
    """No operation has written into a state in place."""
    owners = {id(state): call.name for call in recorder.calls for state in call.after}
    for operation in recorder.operations:
        if operation.args and operation.in_place:
            owner = owners.get(id(operation.args[0]))
            if owner is not None:
                raise ValueError(f"{operation.name} writes into the state or the output of {owner} between two steps")
