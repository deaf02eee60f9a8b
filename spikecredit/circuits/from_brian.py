"""Brian2 to torch: read the objects of a network, in the order in which Brian2 runs them."""

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from spikecredit.circuits.errors import CircuitError
from spikecredit.circuits.events import make_block
from spikecredit.circuits.exported import is_export
from spikecredit.circuits.imported import ImportedCircuit, Plan
from spikecredit.circuits.objects import brian2
from spikecredit.circuits.operations import (
    Addition,
    Generator,
    Operation,
    Pathway,
    Poisson,
    PoissonEvents,
    Refractoriness,
    Reset,
    Threshold,
    Update,
)
from spikecredit.circuits.reader import Code, Reader
from spikecredit.circuits.statements import Expression, Node
from spikecredit.neurons.surrogate import FastSigmoid, Surrogate


def from_brian(
    network: Any,
    *,
    surrogate: Surrogate | None = None,
    span: Mapping[str, Any] | None = None,
    detach_reset: bool = True,
    namespace: Mapping[str, Any] | None = None,
) -> ImportedCircuit:
    """A Brian2 network, before its first run, as a torch module with the same spikes.

    Every step does what Brian2's numpy target does, in the order of `network.sorted_objects`: with the default
    schedule state updates, thresholds, synapses, resets. State updates are Brian2's own statements, whatever method
    made them, and events are added one by one in Brian2's order, so that potentials are the same bits too.

        s = H(v - v_th),   ds/dv = surrogate'((v - v_th) / span) / span

    Args:
        network: a `brian2.Network` at t = 0. It is read, not changed.
        surrogate: derivative of a spike; None: FastSigmoid().
        span: by the name of a NeuronGroup, what makes its potential dimensionless for the surrogate. Where it is not
            given: from reset to threshold, which must then be constants (`v = v_reset`, or `v -= span`).
        detach_reset: no gradient through the choice of who is reset, as in `LIF`.
        namespace: of names in equations, as in `Network.run`; None: the variables where this function is called.
    Returns:
        A module; its parameters are the synaptic variables that on_pre adds.
    Raises:
        CircuitError: an object, an equation or a statement without exact counterpart here; the message names it.
        ValueError: a span of a group without threshold, or one that is not above 0.
        KeyError: Brian2 cannot resolve a name.
        ImportError: without brian2.
    """
    brian2()
    from brian2.core.namespace import get_local_namespace

    if is_export(network):
        raise CircuitError(
            "this network was made by to_brian: circuits.read(network) gives its Circuit back, bit for bit"
        )
    if namespace is None:
        namespace = get_local_namespace(1)
    reader = Reader(network, dict(namespace))
    chosen = FastSigmoid() if surrogate is None else surrogate
    spans: dict[str, Any] = dict(span or {})
    operations: list[Operation] = []
    for item in reader.objects:
        operations += _operations(item, reader, chosen, spans, detach_reset)
    fire = [operation.group for operation in operations if isinstance(operation, Threshold)]
    if unknown := set(spans) - set(fire):
        raise ValueError(f"span: {sorted(unknown)} are no groups with a threshold; those are {fire}")
    return ImportedCircuit(
        Plan(reader.dt, tuple(operations), reader.sizes, reader.initial, reader.weights, reader.ends)
    )


def _operations(
    item: Code, reader: Reader, surrogate: Surrogate, spans: dict[str, Any], detach: bool
) -> list[Operation]:
    """What one object of Brian2 does in a step."""
    group, name = item.group, item.name
    match item.kind:
        case "update":
            return _update(item, reader)
        case "regular":
            return [Update(reader.program(item))]
        case "threshold":
            return [_threshold(item, reader, surrogate, spans)]
        case "reset":
            return [Reset(group.name, reader.program(item, masked=False), detach)]
        case "generator":
            bins = ((np.asarray(group._spike_time) + 1e-3 * reader.dt) / reader.dt).astype(np.int64)
            return [Generator(name, group.N, bins, np.asarray(group._neuron_index))]
        case "poisson":
            return [Poisson(name, reader.rates(item) * reader.dt)]
        case "events":
            binomial = next(iter(item.runner.variables))
            runner = item.runner
            target = reader.key(group.variables[runner.target_var])
            p = float(np.asarray(runner.rate)) * reader.dt
            return [PoissonEvents(name, target, binomial, int(runner.N), p, reader.program(item, draws=binomial))]
    return [_pathway(item, reader)]


def _update(item: Code, reader: Reader) -> list[Operation]:
    refractory = [statement for statement in item.statements if statement.var == "not_refractory"]
    item.statements = [statement for statement in item.statements if statement.var != "not_refractory"]
    found: list[Operation] = []
    for statement in refractory:
        tree = ast.parse(statement.expr, mode="eval").body
        if not (isinstance(tree, ast.Compare) and ast.unparse(tree.left) == "timestep(t - lastspike, dt)"):
            raise CircuitError(
                f"{item.group.name}: refractory={item.group._refractory!r} is a condition; supported is a time, "
                "one for all or one for each neuron"
            )
        names = reader.names(item)
        for scalar in item.statements:  # constants that Brian2 pulled out of the loop
            if scalar.scalar and scalar.op == ":=":
                names[scalar.var] = Expression(names, reader.functions(item), item.name).read(scalar.expr)
        limit = Expression(names, reader.functions(item), item.name).read(ast.unparse(tree.comparators[0]))
        if limit.kind != "constant":
            raise CircuitError(f"{item.group.name}: refractory={item.group._refractory!r} changes in time")
        found.append(Refractoriness(item.group.name, limit.value))
    return [*found, Update(reader.program(item))]


def _threshold(item: Code, reader: Reader, surrogate: Surrogate, spans: dict[str, Any]) -> Threshold:
    group = item.group
    *before, condition = item.statements
    names = reader.names(item)
    for statement in before:
        node = Expression(names, reader.functions(item), item.name).read(statement.expr)
        if node.kind != "constant":
            raise CircuitError(
                f"{group.name}: the threshold `{group.events['spike']}` uses {statement.var}, which changes"
            )
        names[statement.var] = node
    expression = Expression(names, reader.functions(item), f"{group.name}, threshold")
    tree = ast.parse(str(condition.expr).strip(), mode="eval").body
    if not (isinstance(tree, ast.Compare) and isinstance(tree.ops[0], ast.Gt | ast.GtE | ast.Lt | ast.LtE)):
        raise CircuitError(
            f"{group.name}: the threshold `{group.events['spike']}` is not one comparison; supported is "
            "`v > expression`"
        )
    sides = [ast.unparse(tree.left), ast.unparse(tree.comparators[0])]
    if isinstance(tree.ops[0], ast.Lt | ast.LtE):
        sides.reverse()
    high, low = (expression.read(side) for side in sides)
    fired = expression.read(condition.expr)
    margin = expression.binary(ast.Sub(), high, low)
    if fired.kind != "tensor":
        raise CircuitError(f"{group.name}: the threshold `{group.events['spike']}` holds no variable that changes")
    width = spans[group.name] if group.name in spans else _span(item, reader, sides, low)
    width = np.asarray(width, dtype=np.float64)
    if not np.all(width > 0):
        raise ValueError(f"span: of {group.name!r} is {width}, and must be above 0; write span={{{group.name!r}: ...}}")
    return Threshold(group.name, fired, margin, width, group._refractory is not False, surrogate)


def _span(item: Code, reader: Reader, sides: list[str], low: Node) -> Any:
    """From reset to threshold, if both are constants."""
    group = item.group
    for code in reader.objects:
        if code.kind == "reset" and code.group.name == group.name and low.kind == "constant":
            names = reader.names(code)
            for statement in code.statements:
                expression = Expression(names, reader.functions(code), code.name)
                node = expression.read(statement.expr)
                if statement.op == ":=":
                    names[statement.var] = node
                elif statement.var == sides[0] and node.kind == "constant" and statement.op in ("=", "-=", "+="):
                    # `v -= threshold` arrives as `v += -threshold`
                    return np.abs(low.value - node.value) if statement.op == "=" else np.abs(node.value)
    raise CircuitError(
        f"{group.name}: threshold `{group.events['spike']}` and reset `{group.event_codes.get('spike')}` do not say "
        f"how far reset and threshold are apart; write span={{{group.name!r}: ...}}, in the unit of the potential"
    )


def _pathway(item: Code, reader: Reader) -> Pathway:
    synapses, runner = item.group, item.runner
    names, additions = reader.names(item), []
    owner = f"{synapses.name}, on_pre"
    for statement in item.statements:
        expression = Expression(names, reader.functions(item), owner)
        value = expression.read(statement.expr)
        if statement.op == ":=":
            names[statement.var] = value
            continue
        key, mask = reader.written(item, statement.var)
        if statement.op == "-=":
            value = Node((lambda v: lambda scope: -scope.operand(v.read(scope)))(value), value.kind)
        additions.append(Addition(key, value, mask))
    n = len(synapses)
    delays = np.broadcast_to(np.asarray(runner._delays.get_value()) / reader.dt, (n,))
    steps = np.round(delays)
    if half := np.flatnonzero(np.abs(np.abs(delays - steps) - 0.5) < 1e-6).tolist():
        raise CircuitError(
            f"{item.name}: the delay of synapse {half[0]} is {delays[half[0]]:g} steps, which Brian2's targets round "
            "in different ways; choose a multiple of dt"
        )
    source, target = reader.ends[synapses.name]
    sizes = reader.size(runner.source), reader.size(runner.target)
    blocks = []
    for delay in sorted({int(d) for d in steps}, reverse=True):
        which = np.flatnonzero(steps == delay)
        pre, post = (torch.as_tensor(each[which].astype(np.int64)) for each in (source, target))
        blocks.append(make_block(delay, torch.as_tensor(which), pre, post, *sizes))
    parent = getattr(runner.source, "source", runner.source)
    return Pathway(item.name, parent.name, n, tuple(additions), tuple(blocks))
