"""The matrix: notation of pathways and constraints, which setting wins, names, and what is refused with which words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spikecredit.constraints import Dale
from spikecredit.data import Digits
from spikecredit.pathways import PATHWAYS, FeedbackAlignment, SignSymmetry
from spikecredit.training import matrix
from spikecredit.training.document import ConfigError
from spikecredit.training.experiment import REGISTRIES, Experiment
from spikecredit.training.loop import Trainer
from spikecredit.training.matrix import Condition, choices, conditions, short_names, split
from spikecredit.training.schema import load

BASE = "network: {kind: mlp, hidden: [6, 5]}\ntraining: {epochs: 2, optimizer: {kind: adam, lr: 0.02}}\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(BASE)
    return path


def made(
    source: Path,
    pathway: str | None = None,
    constraint: str | None = None,
    *overrides: str,
    changes: tuple[str, ...] = (),
    seeds: int = 2,
    more: tuple[Path, ...] = (),
) -> list[Condition]:
    return conditions([source, *more], pathway, constraint, seeds, overrides, changes)


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        made(*arguments, **options)
    return str(caught.value)


# ---- notation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        ("a, b ,c", ["a", "b", "c"]),
        ("a(x=1, y=2),b", ["a(x=1, y=2)", "b"]),
        ("{kind: a, x: [1, 2]},{kind: b}", ["{kind: a, x: [1, 2]}", "{kind: b}"]),
        ("a(x='1,2)'),b", ["a(x='1,2)')", "b"]),
    ],
)
def test_commas_part_what_no_bracket_and_no_quote_holds(text: str, parts: list[str]) -> None:
    assert split(text) == parts


@pytest.mark.parametrize(("text", "told"), [
    ("a,,b", "a name is missing"), ("", "no name is given"), ("a(x]", "']' without its partner"),
    ("a(x", "')' is missing"), ("a)", "')' without its partner"),
    ("a('x)", '"\'" is missing'),
])  # fmt: skip
def test_what_cannot_be_parted_is_an_error(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match="--pathway") as caught:
        choices("pathway", text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("feedback_alignment", "feedback_alignment", FeedbackAlignment()),
        ("FA", "FA", FeedbackAlignment()),
        ("FA(gain=2)", "FA(gain=2)", FeedbackAlignment(gain=2.0)),
        ("sign_symmetry(magnitude=fixed)", "sign_symmetry(magnitude=fixed)", SignSymmetry(magnitude="fixed")),
        (
            "{kind: sign_symmetry, magnitude: batch, gain: 5e-1}",
            "sign_symmetry(magnitude=batch, gain=0.5)",
            SignSymmetry(magnitude="batch", gain=0.5),
        ),
        ("frSF(scale=strict)", "frSF(scale=strict)", SignSymmetry(magnitude="fixed", scale="strict")),
    ],
)
def test_a_pathway_may_be_written_in_three_ways(text: str, label: str, expected: Any, source: Path) -> None:
    (condition,) = made(source, text)
    assert condition.label == label
    assert load(Experiment, condition.resolved, REGISTRIES).value.pathway == expected


def test_every_short_name_offered_can_be_used(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = short_names()
    assert {"BP", "FA", "uSF", "frSF", "brSF"} <= offered.keys() <= matrix._SHORT_NAMES.keys()
    for name, written in offered.items():
        (short,), (long,) = made(source, name), made(source, written)
        assert short.resolved == long.resolved and short.resolved["pathway"]["kind"] in PATHWAYS
    monkeypatch.setitem(matrix._SHORT_NAMES, "XX", {"kind": "not_there"})
    assert "XX" not in short_names()
    assert "unknown kind 'XX'" in refused(source, "XX")


# ---- the matrix ------------------------------------------------------------------------------------------------------


def test_the_matrix_is_the_product_in_the_order_given(source: Path) -> None:
    found = made(source, "BP,uSF(gain=2)", "none,dale,dale(feedback=own)", seeds=3)
    assert [c.label for c in found] == [
        "BP", "uSF(gain=2)", "BP + dale", "uSF(gain=2) + dale", "BP + dale(feedback=own)",
        "uSF(gain=2) + dale(feedback=own)",
    ]  # fmt: skip
    assert [c.folder for c in found] == [
        "BP", "uSF-gain-2", "BP+dale", "uSF-gain-2+dale", "BP+dale-feedback-own", "uSF-gain-2+dale-feedback-own",
    ]  # fmt: skip
    experiment = load(Experiment, found[-1].config(2), REGISTRIES).value
    assert (experiment.pathway, experiment.constraint, experiment.seed) == (
        SignSymmetry(gain=2.0), Dale(feedback="own"), 2,
    )  # fmt: skip
    assert all(c.seeds == (0, 1, 2) for c in found)


def test_configurations_are_rows_of_their_own(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "deep.yaml"
    other.write_text(BASE.replace("[6, 5]", "[7, 7, 7]"))
    assert [c.label for c in made(source, more=(other,))] == ["small", "deep"]
    assert [c.label for c in made(source, "BP,FA", more=(other,))] == [
        "small / BP", "small / FA", "deep / BP", "deep / FA",
    ]  # fmt: skip
    (tmp_path / "x").mkdir()
    twin = tmp_path / "x" / "small.yaml"
    twin.write_text(BASE + "normalise: false\n")
    assert [c.label for c in made(source, more=(twin,))] == [str(source)[:-5], str(twin)[:-5]]


def lr(condition: Condition) -> float:
    return condition.resolved["training"]["optimizer"]["lr"]


def test_later_settings_win(source: Path) -> None:
    given = ("training.optimizer.lr=0.5", "training.epochs=7")
    found = made(source, "BP,FA", "none,dale", *given, changes=("FA:training.optimizer.lr=0.25",))
    assert [lr(c) for c in found] == [0.5, 0.25, 0.5, 0.25]
    assert {c.resolved["training"]["epochs"] for c in found} == {7}
    assert made(source, "FA", None, "pathway.gain=3")[0].resolved["pathway"]["gain"] == 3.0


@pytest.mark.parametrize(
    ("name", "changed"),
    [("FA", [1, 3]), ("dale", [2, 3]), ("FA + dale", [3]), ("small", [0, 1, 2, 3])],
)
def test_a_change_is_for_the_rows_that_its_name_names(name: str, changed: list[int], source: Path) -> None:
    found = made(source, "BP,FA", "none,dale", changes=(f"{name}:training.optimizer.lr=1e-3",))
    assert [i for i, condition in enumerate(found) if lr(condition) == 1e-3] == changed
    found = made(source, "BP,FA", "none,dale", changes=(f"{name}:seeds=1",))
    assert [i for i, condition in enumerate(found) if condition.seeds == (0,)] == changed


def test_what_no_option_chooses_may_be_set(source: Path) -> None:
    (condition,) = made(source, None, "none", "pathway=feedback_alignment", changes=("small:pathway.gain=2",))
    assert condition.label == "small" and condition.resolved["pathway"]["gain"] == 2.0


def test_a_change_may_name_a_row_as_it_was_written(source: Path) -> None:
    text = "{kind: sign_symmetry, magnitude: fixed}"
    found = made(source, f"BP,{text}", changes=(f"{text}:training.optimizer.lr=1", "BP:seeds=3"))
    assert [lr(c) for c in found] == [0.02, 1.0] and found[0].seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("words", "options", "told"),
    [
        (("bakprop",), {}, "--pathway 'bakprop': unknown kind 'bakprop'; did you mean 'backprop'?"),
        (("FAA",), {}, "did you mean 'FA'?"),
        ((None, "dal"), {}, "--constraint 'dal': unknown kind 'dal'; did you mean 'dale'?"),
        (("sign_symmetry(magnitud=fixed)",), {}, "unknown key 'magnitud'; did you mean 'magnitude'?"),
        (("sign_symmetry(fixed)",), {}, "options are written (name=value, name=value)"),
        (("{magnitude: fixed}",), {}, "expected a mapping with a kind"),
        (("a b",), {}, "expected a kind, as backprop"),
        (("uSF,sign_symmetry",), {}, "sign_symmetry and uSF have the same configuration; leave one out"),
        (("BP", None, "pathway.gain=3"), {}, "unknown key 'gain'"),
        (("BP", None, "pathway=FA"), {}, "override 'pathway=FA': --pathway chooses the pathway of each row"),
        (("BP", None, "pathway.kind=feedback_alignment"), {}, "--pathway chooses the pathway of each row"),
        (("BP",), {"changes": ("BP:pathway.kind=feedback_alignment",)}, "--pathway chooses the pathway of each row"),
        ((None, "dale", "constraint=none"), {}, "override 'constraint=none': --constraint chooses the"),
        (("BP", None, "seed=3"), {}, "--seeds chooses the seed of each row"),
        (("BP", None, "trainng.epochs=3"), {}, "did you mean 'training'?"),
        (("BP",), {"changes": ("BPP:training.epochs=3",)}, "no row is called 'BPP'; did you mean 'BP'?"),
        (("BP",), {"changes": ("training.epochs=3",)}, "expected NAME:key=value"),
        (("BP",), {"changes": ("BP:seeds=0",)}, "expected a number of seeds, at least 1"),
        (("FA(gain=2)",), {"changes": ("FA(gain=2):seed=4",)}, "--seeds chooses the seed of each row"),
        (("BP",), {"changes": ("BP:training.epochs=0",)}, "epochs must be at least 1"),
        (("BP",), {"seeds": 0}, "--seeds must be at least 1, got 0"),
    ],
)
def test_mistakes_are_refused_with_what_to_write(
    words: tuple[Any, ...], options: dict[str, Any], told: str, source: Path
) -> None:
    assert told in refused(source, *words, **options)


def test_an_option_that_is_wrong_is_told_where_it_was_written(source: Path) -> None:
    told = refused(source, "sign_symmetry(magnitude=fixd)")
    assert told.startswith("--pathway 'sign_symmetry(magnitude=fixd)'") and "did you mean 'fixed'?" in told
    assert "{" not in told


def test_rows_whose_folders_would_be_one_are_told_apart(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matrix._SHORT_NAMES, "bp", {"kind": "feedback_alignment"})
    first, second = made(source, "BP,bp")
    assert first.folder.startswith("BP-") and second.folder.startswith("bp-")
    assert first.folder.lower() != second.folder.lower()
    assert (first, second) == tuple(made(source, "BP,bp"))


# ---- pairs -----------------------------------------------------------------------------------------------------------


def assert_paired(found: list[Condition]) -> None:
    """Whatever the pathway, training starts from the same weights and sees the same batches. Under Dale's law the draw
    is the same too; the first layer, which is exempt, keeps it as it is."""
    data = Digits().load()
    starts: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    orders: dict[tuple[str, int], torch.Tensor] = {}
    for condition in found:
        for seed in condition.seeds:
            trainer = Trainer(load(Experiment, condition.config(seed), REGISTRIES).value, data)
            layers = trainer.net.synapses().items()
            starts[condition.label, seed] = {name: layer.weight.detach().clone() for name, layer in layers}
            orders[condition.label, seed] = trainer.batches.order(1)
    for (label, seed), weights in starts.items():
        assert torch.equal(orders[label, seed], orders["BP", seed]), label
        alike, free = starts["BP + dale" if "dale" in label else "BP", seed], starts["BP", seed]
        assert all(torch.equal(weights[name], alike[name]) for name in alike), label
        first, second, _ = free
        assert torch.equal(weights[first], free[first])
        assert torch.equal(weights[second], free[second]) == ("dale" not in label)
    assert not torch.equal(orders["BP", 0], orders["BP", 1])
    assert not torch.equal(starts["BP", 0][first], starts["BP", 1][first])


def test_conditions_of_one_seed_share_forward_weights_and_data_order(source: Path) -> None:
    assert_paired(made(source, ",".join(short_names()), "none,dale"))


def test_the_search_for_pairs_notices_another_seed(source: Path) -> None:
    bp, fa = made(source, "BP,FA")
    for key in ("seed", "hidden"):

        class Other(Condition):
            def config(self, seed: int, key: str = key) -> dict[str, Any]:
                shifted = json.loads(json.dumps(super().config(seed)))
                if key == "seed":
                    shifted["seed"] += 2
                else:
                    shifted["network"]["hidden"] = [7, 5]
                return shifted

        with pytest.raises(AssertionError):
            assert_paired([bp, Other(fa.label, fa.folder, fa.seeds, fa.resolved)])


def test_conditions_are_plain_data(source: Path) -> None:
    (condition,) = made(source, "FA")
    assert json.loads(json.dumps(condition.config(3)))["seed"] == 3 and condition.resolved["seed"] == 0
