"""Rules in Brian2: the same texts, as `Synapses` between spike generators."""

import ast
import copy
import re
import tempfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from spikecredit.circuits.objects import brian2, preferences
from spikecredit.plasticity.engines.stimulus import EVENTS, Outcome, Stimulus, check
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import Expression
from spikecredit.plasticity.units import Unit


def texts(equations: Equations, clocked: frozenset[str] = frozenset()) -> dict[str, str]:
    """What Brian2's `Synapses` is given: model, on_pre and on_post, with bounds written out.

    Variables that decay exactly and that nothing reads between events are event-driven; names in `clocked` never are.
    """
    model = []
    for name, line in equations.lines.items():
        if line.value is not None:
            model.append(f"{name} = {line.value.text} : {line.unit}")
        elif line.slope is None:
            model.append(f"{name} : {line.unit}")
        else:
            lazy = name in equations.exact and name not in equations.watched | clocked
            driven = "event-driven" if lazy else "clock-driven"
            model.append(f"d{name}/dt = {line.slope.text} : {line.unit} ({driven})")
    model += [f"{name} = {name}_signal(t, j) : {equations.units[name]}" for name in equations.signals]
    found = {"model": "\n".join(model)}
    for event in EVENTS:
        lines = [f"{s.target} = {s.value.text}" for s in equations.blocks[event]]
        found[f"on_{event}"] = "\n".join(lines)
    return found


def constants(equations: Equations) -> dict[str, Any]:
    """The parameters as Brian2's quantities."""
    return {name: _quantity(value, equations.units[name]) for name, value in equations.values.items()}


def _quantity(value: Any, unit: Unit) -> Any:
    """SI numbers with their dimension."""
    b2 = brian2()
    powers = dict(zip(("kg", "m", "s", "A"), (float(p) for p in unit.powers), strict=True))
    return value if unit.plain else b2.Quantity(value, dim=b2.get_or_create_dimension(**powers))


def update(equations: Equations, clocked: frozenset[str]) -> Any:
    """The state updater: the scheme of the other engines (exact decays, Euler for the rest, all from the old state)."""

    def code(model: Any, variables: Any = None, options: Any = None) -> str:
        lines, after = [], []
        for noise in sorted({n for names in equations.noise.values() for n in names}):
            lines.append(f"_{noise}_draw = randn()/dt**0.5")
        for name, slope in equations.continuous.items():
            text = re.sub(r"\b(xi(?:_\w+)?)\b", r"_\1_draw", slope.text)
            lines.append(f"_{name}_next = {name} + dt*({text})")
        for name, (a, b) in equations.exact.items():
            if name in equations.watched | clocked:
                shift = f" + {b!r}/({a!r})*(exp({a!r}*dt) - 1)" if a and b else f" + {b!r}*dt" if b else ""
                lines.append(f"_{name}_next = {name}*exp({a!r}*dt){shift}")
        for line in list(lines):
            target = line.partition("_next =")[0]
            if "_next =" in line:
                after.append(f"{target[1:]} = {target}_next")
        after += [
            f"{name} = {equations.clipped(name).value.text}"
            for name in equations.bounds if name in equations.continuous
        ]  # fmt: skip
        return "\n".join(lines + after)

    return code


def run(
    equations: Equations,
    stimulus: Stimulus,
    dt: float = 1.0,
    replicates: int = 1,
    seed: int = 0,
    start: Mapping[str, Any] | None = None,
    record: tuple[str, ...] = (),
    every: float | None = None,
    target: Literal["numpy", "cpp_standalone"] = "numpy",
) -> Outcome:
    """Run a rule on every condition in Brian2; arguments as in `reference.run`.

    Args:
        target: "numpy", or "cpp_standalone", which compiles the experiment; for long ones.
    Raises:
        ImportError: Brian2 is not installed.
    """
    check(equations, stimulus, dt, record, every)
    b2 = brian2()
    if target == "cpp_standalone":
        from brian2.devices.device import reset_device

        with tempfile.TemporaryDirectory() as folder, preferences({"codegen.cpp.extra_compile_args_gcc": STRICT}):
            b2.set_device("cpp_standalone", build_on_run=False)
            try:
                return _run(b2, equations, stimulus, dt, replicates, seed, start, record, every, folder)
            finally:
                reset_device()
                b2.get_device().reinit()
    with preferences({"codegen.target": "numpy"}):
        return _run(b2, equations, stimulus, dt, replicates, seed, start, record, every, None)


STRICT = ["-w", "-O3", "-std=c++17", "-ffp-contract=off", "-fno-fast-math"]
"""Compiler flags under which C++ rounds as NumPy does."""


def _run(
    b2: Any,
    equations: Equations,
    stimulus: Stimulus,
    dt: float,
    replicates: int,
    seed: int,
    start: Mapping[str, Any] | None,
    record: tuple[str, ...],
    every: float | None,
    folder: str | None,
) -> Outcome:
    c, r = stimulus.conditions, replicates
    clock = b2.Clock(dt * b2.ms, name="plasticity_clock")
    grid = stimulus.grid(dt, equations.delay)
    groups = {}
    for event in EVENTS:
        index = np.concatenate([np.full(len(k), i) for i, k in enumerate(grid[event])]).astype(int)
        steps = np.concatenate(grid[event])
        groups[event] = b2.SpikeGeneratorGroup(
            c, index, steps * dt * b2.ms, clock=clock, sorted=False, name=f"plasticity_{event}"
        )
    rewarded = equations.blocks["reward"]
    touched = {n for s in rewarded for n in (s.target, *s.value.names)}
    looked = {equations.weight, *record} & set(equations.subexpressions)
    read = {name for n in looked for name in equations.subexpressions[n].names}
    clocks = {name for name, (a, _) in equations.exact.items() if a == 0}  # Brian2 cannot solve these at events
    clocked = frozenset(({*record} | touched | read | clocks) & set(equations.variables))
    written, namespace = texts(equations, clocked), constants(equations)
    for name in equations.signals:
        unit = equations.units[name]
        values = _quantity(stimulus.signals[name] * unit.scale, unit)
        namespace[f"{name}_signal"] = b2.TimedArray(values, dt=dt * b2.ms, name=f"{name}_signal")
    synapses = b2.Synapses(
        groups["pre"], groups["post"], written["model"], on_pre=written["on_pre"] or None,
        on_post=written["on_post"] or None, method=update(equations, clocked), namespace=namespace, clock=clock,
        name="plasticity_synapses",
    )  # fmt: skip
    which = np.repeat(np.arange(c), r)
    synapses.connect(i=which, j=which)
    first = equations.initial(start)
    for name, value in first.items():
        setattr(synapses, f"{name}_", np.broadcast_to(np.asarray(value, float), (c, r)).ravel())
    objects = [*groups.values(), synapses]
    if rewarded:
        text = "\n".join(f"{_there(s.target, equations)} = {_there_all(s.value, equations)}" for s in rewarded)
        teach = b2.Synapses(
            groups["reward"], synapses, on_pre=text, namespace=namespace, clock=clock, name="plasticity_rewards"
        )
        teach.connect(i=which, j=np.arange(c * r))
        teach.pre.order = 2
        objects.append(teach)
    monitor = None
    if record:
        assert every is not None
        # at the start of step k + 1 Brian2's variables are those after step k, which ends at k dt
        monitor = b2.StateMonitor(
            synapses,
            list(record),
            record=True,
            when="before_synapses",
            clock=b2.Clock(every * b2.ms),
            name="plasticity_monitor",
        )
        objects.append(monitor)
    b2.seed(seed)
    network = b2.Network(*objects, name="plasticity_network")
    for part in network.objects:
        part._network = network.id
    network.run((stimulus.steps(dt) + 1) * dt * b2.ms, namespace={})
    if folder is not None:
        b2.get_device().build(directory=folder, run=True, with_output=False)
    lazy = set(equations.exact) - equations.watched - clocked  # Brian2 moves these at their next event only
    state = {n: np.array(getattr(synapses, f"{n}_")[:]).reshape(c, r) for n in equations.variables if n not in lazy}
    given = {name: np.array(np.broadcast_to(np.asarray(v, float), (c, r))) for name, v in first.items()}
    traces, times = {}, np.empty(0)
    if monitor is not None:
        times = np.array(monitor.t / b2.ms)
        traces = {name: np.array(getattr(monitor, f"{name}_")).T.reshape(len(times), c, r) for name in record}
    return Outcome(
        np.array(np.broadcast_to(equations.strength(given), (c, r))),
        np.array(np.broadcast_to(equations.strength(state), (c, r))),
        state, times, traces,
    )  # fmt: skip


def _there(name: str, equations: Equations) -> str:
    """A synapse's variable as another synapse sees it that targets it."""
    return f"{name}_post" if name in equations.variables else name


def _there_all(text: Expression, equations: Equations) -> str:
    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return ast.Name(_there(node.id, equations), node.ctx)

    return ast.unparse(ast.fix_missing_locations(Put().visit(copy.deepcopy(text.tree))))
