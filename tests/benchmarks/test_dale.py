"""benchmarks.dale: its rows are configurations of their own, and a row is chosen, trained and written down."""

import pytest
import tiny

from benchmarks import dale
from benchmarks.common import table
from spikecredit.cli import CONFIGS
from spikecredit.training.experiment import load_experiment

CONFIG = CONFIGS / "mnist_lenet_backprop.yaml"


@pytest.mark.parametrize("network", dale.NETWORKS)
def test_every_row_is_a_configuration_of_its_own(network: str) -> None:
    experiments = [
        load_experiment(CONFIG, (*dale.overrides(network, mode, pathway), rate)).value
        for mode, pathway in dale.rows(network)
        for rate in dale.rates(network, mode).values()
    ]
    assert len(set(experiments)) == len(experiments)
    assert {e.normalise for e in experiments} == {False}  # the same pixels for all
    assert len({e.pathway for e in experiments}) == (4 if network == "mlp" else 3)
    assert all(e.data.validation == 5000 for e in experiments)  # on which the rate is chosen


@pytest.mark.filterwarnings("ignore::spikecredit.analysis.activity.ActivityWarning")
@pytest.mark.parametrize("mode", ["project", "exponentiated AdamW", "DANN"])
def test_a_row_chooses_by_validation_and_keeps_the_law(mode: str) -> None:
    data = tiny.data()
    short = ("training.epochs=1", "training.batch_size=8", "augment=[]", "encoder={kind: constant, steps: 2}")
    base = (*dale.overrides("mlp", mode, "sign symmetry"), *short)
    network = next(o for o in base if o.startswith("network=")).replace("[400, 400]", "[12, 8]")
    rates = dict(list(dale.MODES[mode][2].items())[:2])
    found = dale.row(CONFIG, data, data, (*base, network), rates, 2, 1, 1)
    assert found["validation"].keys() == rates.keys()
    assert found["validation"][found["setting"]] == max(found["validation"].values())
    assert len(found["test"]) == 2 and found["violations"] == 0
    assert len(found["angles"]) == 2 and all(0 <= angle <= 180 for angle in found["angles"])
    pathway = "sign symmetry"
    text = table(*dale.table({"rows": {f"{pathway}, {mode}": found}}))
    assert found["setting"] in text and mode in text and pathway in text


@pytest.mark.filterwarnings("ignore::spikecredit.analysis.activity.ActivityWarning")
def test_a_row_with_more_rates_trains_again_only_where_a_new_one_is_better() -> None:
    data = tiny.data()
    short = ("training.epochs=1", "training.batch_size=8", "augment=[]", "encoder={kind: constant, steps: 2}")
    network = "network={kind: mlp, hidden: [12, 8]}"
    base = (*dale.overrides("mlp", "no constraint", "backprop"), *short, network)
    rates = dict(list(dale.ADAM.items())[:2])
    first, second = rates
    row = {"setting": first, "test": [0.5], "validation": {first: 2.0}}  # better than any can be
    kept = dale.row(CONFIG, data, data, base, rates, 2, 1, 1, row)
    assert kept["test"] == [0.5] and kept["setting"] == first and kept["validation"].keys() == rates.keys()
    worse = row | {"validation": {first: -1.0}}
    anew = dale.row(CONFIG, data, data, base, rates, 2, 1, 1, worse)
    assert anew["setting"] == second and len(anew["test"]) == 2 and anew["validation"][first] == -1.0


def test_the_matrix_shows_the_difference_to_unconstrained_backprop_and_what_is_missing() -> None:
    row = {"angles": [12.0, 34.0], "dead": 0.25, "setting": "lr 1", "violations": 0}
    record = {"rows": {
        "backprop, no constraint": row | {"test": [0.98, 0.99]},
        "sign symmetry, threshold, project": row | {"test": [0.97, 0.98]},
        "sign symmetry, project, ColumnEI": row | {"test": [0.96]},
    }}  # fmt: skip
    header, lines = dale.matrix(record)
    assert header == ["", "backprop", "sign symmetry, threshold", "sign symmetry", "feedback alignment"]
    assert lines == [
        ["no constraint", "98.50 ± 6.35", "–", "–", "–"],
        ["project", "–", "97.50 ± 6.35 (-1.00)", "–", "–"],
        ["project, ColumnEI", "–", "–", "96.00 (-2.50)", "–"],
    ]
    (line,) = dale.table(record, ["project"])[1]
    assert line == ["project", "sign symmetry, threshold", "97.50 ± 6.35", "12 / 34", "25%", "lr 1", "0"]
    shown = {mode for modes in dale.PAGES.values() for mode in modes}
    assert shown == set(dale.MODES)  # each on a page
