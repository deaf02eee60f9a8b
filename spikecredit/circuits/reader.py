"""The objects of a Brian2 network, their statements and their variables; what is not known is refused here."""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikecredit.circuits.errors import CircuitError
from spikecredit.circuits.statements import TIME, Node, Program, constant, program, variable

SUPPORTED = (
    "Supported are NeuronGroup (equations without noise; threshold, reset, refractory), Synapses whose on_pre adds to "
    "variables of their target, SpikeGeneratorGroup, PoissonGroup, PoissonInput, run_regularly, subgroups and monitors"
)


@dataclass
class Code:
    """One object of Brian2 that does something in a step, and its statements, scalar ones first."""

    kind: str
    name: str
    runner: Any
    group: Any
    statements: list[Any]
    variables: dict[str, Any]
    indices: dict[str, str]


class Reader:
    """Everything that `from_brian` needs to know of a network.

    Raises:
        CircuitError: an object that is not known, different clocks, or a network that has run.
    """

    def __init__(self, network: Any, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.dt = 0.0
        self.sizes: dict[str, int] = {}
        self.initial: dict[str, np.ndarray] = {}
        self.weights: dict[str, dict[str, np.ndarray]] = {}
        self.ends: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._keys: dict[int, str] = {}
        self._weight_keys: dict[int, str] = {}
        from brian2.devices.device import RuntimeDevice, get_device

        if not isinstance(get_device(), RuntimeDevice):
            raise CircuitError(
                f"the device is {type(get_device()).__name__}, whose values are known only after a run; write "
                'brian2.set_device("runtime") before you build the network'
            )
        if (t := float(np.asarray(network.t))) != 0:
            raise CircuitError(
                f"the network has run until t = {t:g} s, and spikes may be on their way; read it before its first run, "
                "or after network.restore() of a state that was stored there"
            )
        found = [self._code(item) for item in network.sorted_objects]
        self.objects = [item for item in found if item is not None]
        if not any(item.kind in ("update", "threshold", "regular") for item in self.objects):
            raise CircuitError(f"the network holds no neurons: {network!r}. {SUPPORTED}")
        for item in self.objects:
            self._collect_states(item)
        for item in self.objects:
            if item.kind == "pathway":
                self._collect_weights(item)

    # ------------------------------------------------------------------ objects

    def _code(self, item: Any) -> Code | None:
        """What this object does; None if it does nothing to the network."""
        import brian2 as b2
        from brian2.core.operations import NetworkOperation
        from brian2.groups import neurongroup
        from brian2.groups.group import CodeRunner
        from brian2.groups.subgroup import Subgroup
        from brian2.synapses.synapses import SynapticPathway

        if isinstance(item, b2.EventMonitor | b2.StateMonitor | b2.PopulationRateMonitor):
            return None
        if not item.active:
            raise CircuitError(f"{item.name} is not active; take it out of the network")
        self._same_clock(item)
        match item:
            case b2.NeuronGroup():
                self._neurons(item)
                return None
            case b2.Synapses():
                self._synapses(item)
                return None
            case Subgroup():
                return None
            case b2.SpikeGeneratorGroup():
                if float(np.asarray(item.period_)) != 0:
                    raise CircuitError(f"{item.name}: period is not supported; write all spikes out")
                self.sizes[item.name] = item.N
                return Code("generator", item.name, item, item, [], {}, {})
            case b2.PoissonGroup():
                self.sizes[item.name] = item.N
                return None
            case b2.PoissonInput():
                return self._statements("events", item, item._group)
            case neurongroup.StateUpdater() if isinstance(_strong(item.group), b2.NeuronGroup):
                return self._statements("update", item, item.group)
            case neurongroup.Thresholder() if item.event == "spike":
                if isinstance(_strong(item.group), b2.PoissonGroup):
                    return Code("poisson", item.group.name, item, item.group, [], {}, {})
                return self._statements("threshold", item, item.group)
            case neurongroup.Resetter() if item.event == "spike":
                return self._statements("reset", item, item.group)
            case SynapticPathway():
                return self._on_pre(item)
            case NetworkOperation():
                raise CircuitError(f"{item.name} runs Python code in each step, which has no gradient. {SUPPORTED}")
            case CodeRunner() if type(item) is CodeRunner and item.template == "stateupdate":
                return self._statements("regular", item, item.group)
        raise CircuitError(f"{item.name} is a {type(item).__name__}. {SUPPORTED}")

    def _same_clock(self, item: Any) -> None:
        if item._clock is None:
            return
        dt = float(item._clock.dt_)
        if self.dt and dt != self.dt:
            raise CircuitError(f"{item.name} has dt = {dt:g} s, others have {self.dt:g} s; supported is one dt for all")
        self.dt = dt

    def _neurons(self, group: Any) -> None:
        if extra := [name for name in group.events if name != "spike"]:
            raise CircuitError(f"{group.name}: events {extra}; supported is the spike event, threshold=")
        if group._linked_variables:
            raise CircuitError(f"{group.name}: linked variables {sorted(group._linked_variables)} are not supported")
        if group.equations.is_stochastic:
            raise CircuitError(
                f"{group.name}: noise {sorted(group.equations.stochastic_variables)} is not supported; give random "
                "input as a PoissonGroup or PoissonInput"
            )
        if "spike" in group.events:
            self.sizes[group.name] = len(group)
        if group._refractory is not False:
            last = np.asarray(group.variables["lastspike"].get_value())
            from brian2.core.functions import timestep

            self._keys[id(group.variables["not_refractory"])] = f"{group.name}.not_refractory"
            self.initial[f"{group.name}.not_refractory"] = np.array(group.variables["not_refractory"].get_value(), bool)
            self.initial[f"{group.name}.last"] = -np.asarray(timestep(-last, self.dt), np.int64).reshape(last.shape)

    def _synapses(self, synapses: Any) -> None:
        for kind, names in (
            ("differential equations", synapses.equations.diff_eq_names),
            ("event-driven equations", getattr(synapses.event_driven, "diff_eq_names", ())),
        ):
            if names:
                raise CircuitError(
                    f"{synapses.name}: {kind} of {sorted(names)} are not supported, so neither are synapses that learn "
                    "in Brian2; import them without (on_pre adds a weight, nothing else), train, and write weights back"
                )
        if synapses.summed_updaters:
            raise CircuitError(
                f"{synapses.name}: summed variables {sorted(synapses.summed_updaters)} are not supported"
            )
        pre, post = (np.array(synapses.variables[f"_synaptic_{side}"].get_value()) for side in ("pre", "post"))
        self.ends[synapses.name] = pre, post

    def _on_pre(self, pathway: Any) -> Code:
        synapses = _strong(pathway.group)
        if pathway.prepost != "pre" or pathway.event != "spike":
            raise CircuitError(
                f"{synapses.name}: on_{pathway.prepost} `{pathway.code}` of the event {pathway.event!r} is not "
                "supported; on_pre of spikes is"
            )
        return self._statements("pathway", pathway, synapses)

    def _statements(self, kind: str, runner: Any, group: Any) -> Code:
        """Brian2's numpy code object for this runner, as statements; made anew, whatever target is preferred."""
        from brian2.codegen.codeobject import create_runner_codeobj
        from brian2.codegen.runtime.numpy_rt import NumpyCodeObject
        from brian2.codegen.translation import make_statements

        group = _strong(group)
        runner.update_abstract_code(run_namespace=self.namespace)
        code = runner.abstract_code
        if kind == "threshold":  # without `and not_refractory`, which is added where a spike is made
            code = f"_cond = {group.events['spike']}"
        if not code.strip():
            return Code(kind, runner.name, runner, group, [], {}, {})
        extra = getattr(runner, "variables", None)
        made = create_runner_codeobj(
            group, code, runner.template, self.namespace, user_code=runner.user_code, name=f"{runner.name}_import*",
            check_units=runner.check_units, additional_variables=extra, needed_variables=runner.needed_variables,
            template_kwds=runner.template_kwds, override_conditional_write=runner.override_conditional_write,
            codeobj_class=NumpyCodeObject,
        )  # fmt: skip
        scalar, vector = make_statements(code, made.variables, np.float64, optimise=True, blockname="")
        return Code(kind, runner.name, runner, group, [*scalar, *vector], dict(made.variables), made.variable_indices)

    # ------------------------------------------------------------------ variables

    def _collect_states(self, item: Code) -> None:
        """Variables that somebody writes change; all others are constants."""
        for statement in item.statements:
            written: Any = item.variables.get(statement.var)
            if statement.op == ":=" or not hasattr(written, "owner") or statement.var == "not_refractory":
                continue
            owner = getattr(_strong(written.owner), "name", "?")
            if item.kind == "pathway":
                self._check_on_pre(item, statement, owner)
            if written.scalar:
                raise CircuitError(
                    f"{item.name} writes the shared variable {owner}.{written.name}, which is not supported"
                )
            if written.dtype != np.float64:
                raise CircuitError(
                    f"{item.name} writes {owner}.{written.name} of type {written.dtype}; supported is float64, "
                    "prefs.core.default_float_dtype"
                )
            self._keys[id(written)] = key = f"{owner}.{written.name}"
            self.initial[key] = np.array(written.get_value())

    def _check_on_pre(self, item: Code, statement: Any, owner: str) -> None:
        line = f"`{statement.var} {statement.op} {statement.expr}`"
        name = item.group.name
        if item.indices.get(statement.var) != "_postsynaptic_idx":
            what = "is the source's" if item.indices.get(statement.var) == "_presynaptic_idx" else "is the synapse's"
            raise CircuitError(
                f"{name}, on_pre: {line} writes {owner}.{statement.var}, which {what}: synapses that change by "
                "themselves are not supported. Supported is adding to a variable of the target, such as `v_post += w`"
            )
        if statement.op not in ("+=", "-="):
            raise CircuitError(f"{name}, on_pre: {line} does not add. Supported is `v_post += w`")

    def _collect_weights(self, item: Code) -> None:
        """Synaptic variables that on_pre adds are weights."""
        synapses = item.group
        for statement in item.statements:
            for name in _names(statement.expr):
                found = item.variables.get(name)
                if found is None or not hasattr(found, "get_value") or not hasattr(found, "owner"):
                    continue
                if id(found) in self._keys or name in ("t", "t_in_timesteps"):
                    raise CircuitError(
                        f"{synapses.name}, on_pre: `{statement.var} {statement.op} {statement.expr}` depends on "
                        f"{name}, which changes in time. Supported is adding a weight"
                    )
                if _strong(found.owner) is synapses and name in synapses.equations.parameter_names:
                    if found.dtype != np.float64:
                        raise CircuitError(f"{synapses.name}: the weight {name} is of type {found.dtype}, not float64")
                    self._weight_keys[id(found)] = f"{synapses.name}.{name}"
                    self.weights.setdefault(synapses.name, {})[name] = np.array(found.get_value())

    def key(self, found: Any) -> str:
        """The key of a variable that changes."""
        return self._keys[id(found)]

    def written(self, item: Code, name: str) -> tuple[str, str | None]:
        """Key of a variable that is written, and of the truth value that allows it."""
        found = item.variables[name]
        condition = getattr(found, "conditional_write", None)
        return self.key(found), None if condition is None else self.key(condition)

    def size(self, group: Any) -> int:
        """Neurons of a group; of the whole group, for a subgroup."""
        return len(getattr(group, "source", group))

    def names(self, item: Code, draws: str | None = None) -> dict[str, Node]:
        """What the names in an object's statements stand for."""
        from brian2.core.variables import ArrayVariable, Constant

        found: dict[str, Node] = {}
        for name, each in item.variables.items():
            if name == draws:
                found[name] = Node((lambda key: lambda scope: scope.draws[key])(name), "tensor")
            elif id(each) in self._keys:
                found[name] = variable(self._keys[id(each)])
            elif id(each) in self._weight_keys:
                found[name] = variable(self._weight_keys[id(each)])
            elif name == "t":
                found[name] = TIME
            elif isinstance(each, ArrayVariable | Constant) and name != "t_in_timesteps":
                found[name] = constant(self._constant(item, name, each))
        return found

    def _constant(self, item: Code, name: str, each: Any) -> Any:
        values = np.asarray(each.get_value())
        if getattr(each, "scalar", True):
            return values.reshape(-1)[0]
        ends = {"_presynaptic_idx": 0, "_postsynaptic_idx": 1}
        index = item.indices.get(name, "_idx")
        return values[self.ends[item.group.name][ends[index]]] if index in ends else values

    def functions(self, item: Code) -> dict[str, Callable[..., Any]]:
        """numpy's functions of constants, and what each step computes from t."""
        from brian2.codegen.generators.numpy_generator import NumpyCodeGenerator
        from brian2.core.functions import Function

        found = {}
        for name, each in item.variables.items():
            if isinstance(each, Function) and each.stateless:
                found[name] = each.implementations[NumpyCodeGenerator].get_code(item.group)
        return found

    def program(self, item: Code, masked: bool = True, draws: str | None = None) -> Program:
        """An object's statements in torch."""
        written = {s.var for s in item.statements if s.op != ":=" and id(item.variables.get(s.var)) in self._keys}
        keys = {name: self.written(item, name) for name in written}
        if not masked:
            keys = {name: (key, None) for name, (key, _) in keys.items()}
        return program(item.statements, self.names(item, draws), self.functions(item), keys, item.name)

    def rates(self, item: Code) -> np.ndarray:
        """(N,) in Hz, of a PoissonGroup."""
        group = item.group
        if isinstance(group._rates, str):
            raise CircuitError(
                f"{group.name}: rates `{group._rates}` may change in time; give numbers, or its spikes as input of a "
                "SpikeGeneratorGroup"
            )
        return np.asarray(group.variables["rates"].get_value())


def _strong(found: Any) -> Any:
    """Brian2 keeps weak proxies; the object itself."""
    return found.__repr__.__self__ if "weakproxy" in type(found).__name__ else found


def _names(expression: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(str(expression).strip(), mode="eval")) if isinstance(node, ast.Name)}
