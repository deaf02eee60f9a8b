"""From a trained network to the record that the report shows."""

from pathlib import Path
from typing import Any

import numpy as np

from spikecredit.analysis import report
from spikecredit.analysis.activity import record
from spikecredit.analysis.report import RunRecord
from spikecredit.constraints import Dale, FrozenSigns
from spikecredit.rules import BPTT, EquilibriumPropagation
from spikecredit.training.experiment import Experiment
from spikecredit.training.loop import Trainer


def run_record(trainer: Trainer, label: str, resolved: dict[str, Any], environment: dict[str, Any]) -> RunRecord:
    """What the report shows of a run, with one test image through its network in evaluation mode."""
    net, data = trainer.net, trainer.data
    net.eval()
    sample = data.test.images[:1]
    x = trainer.encode(sample, "raster")
    recorded = trainer.experiment.rule.recorded(net, x)
    outputs = record(net, x) if recorded is None else recorded[0]
    spikes = {name: out[:, 0].float().cpu().numpy() for name, out in outputs.items()}
    net.train()
    weights: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, layer in net.synapses().items():
        signs = layer.presynaptic_sign
        weights[name] = (
            layer.effective_weight().detach().float().cpu().numpy(),
            None if signs is None else signs.cpu().numpy(),
        )
    return RunRecord(
        label=label,
        epochs=[line for line in trainer.history if line["event"] == "epoch"],
        result=trainer.result,
        config=resolved,
        environment=environment,
        raster=spikes,
        sample=sample[0].cpu().numpy(),
        weights=weights,
        notes=notes(trainer.experiment, len(data.validation) > 0),
    )


def report_line(path: Path, *contents: Any) -> str:
    """Write the report; where it is, or why there is none (a run that ended does not fail for want of matplotlib)."""
    try:
        return f"report: {report.write_report(path, *contents)}"
    except ImportError as error:
        return f"no report: {error}"


def notes(experiment: Experiment, validated: bool) -> list[str]:
    """What a reader must know to judge the figures; `validated`: there was a validation split to select by."""
    selected = "the epoch with the best validation accuracy" if validated else "the last epoch"
    lines = [f"Selected: {selected}; the test split was read once, at the end."]
    if isinstance(experiment.constraint, Dale):
        lines.append(
            "Dale's law holds for every neuron's outgoing synapses; "
            + ("sensory input and biases are" if experiment.constraint.sensory == "exempt" else "biases are")
            + " exempt, and "
            + (
                "errors have carriers of their own, which need not obey it (feedback='exempt')."
                if experiment.constraint.feedback == "exempt"
                else "errors are carried by the same neurons, so feedback weights obey it too (feedback='own')."
            )
        )
    if isinstance(experiment.constraint, FrozenSigns):
        after = experiment.constraint.after
        since = f"after {after} epoch{'s' * (after > 1)} of free training" if after else "from the start"
        lines.append(
            f"The signs of all weights and normalisation scales are frozen {since}; biases and feedback weights are "
            "exempt. Violations count weights of another sign than the frozen one, and none before it is frozen."
        )
    rule = experiment.rule
    if isinstance(rule, BPTT) and rule.nudge:
        lines.append(
            f"Every training batch was presented twice, the second time with {rule.nudge:g} times the error that the "
            "first delivered taken off the hidden neurons' currents, and learned from then; training losses and "
            "accuracies are those of the second presentation."
        )
    if isinstance(rule, EquilibriumPropagation):
        lines.append(
            f"{rule}: the error of a layer is how the nudge changes its activity, and the true one is found by "
            "implicit differentiation of the free state."
        )
    elif not rule.delivers_errors:
        lines.append(f"{rule}: no error travels between neurons, so none has an angle to the true one.")
    if not experiment.pathway.transports_weights:
        leak = " along its own leak"
        within = {True: f"{leak}, and its reset is detached", False: f"{leak} and its reset", None: ""}
        direct = experiment.pathway.direct
        way = "the output's error straight to every layer of neurons" if direct else "errors from layer to layer"
        lines.append(
            f"The pathway carries {way}. Within a neuron, gradients run back through time"
            f"{within[getattr(experiment.neuron, 'detach_reset', None)]}."
        )
    return lines
