"""The verb plasticity: what a user types, what comes back, and what is on the disk then."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from spikecredit import cli, cli_plasticity
from spikecredit.plasticity import DATASETS, PROTOCOLS, RULES, FrequencySweep, Pairing, TripletSTDP
from spikecredit.plasticity import plots as figures

FREQUENCY = ("plasticity", "triplet/visual_cortex_nearest", "frequency")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli.main, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a traceback is never an answer
    return result


def refused(*words: str) -> str:
    result = run("plasticity", *words)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") <= 4 and "Traceback" not in result.stderr
    return result.stderr


def changes(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8", newline="") as file:
        return np.array([float(row["change"]) for row in csv.DictReader(file)])


def test_the_frequency_curve_beside_the_data(here: Path) -> None:
    result = run(*FREQUENCY, "--data", "sjostrom2001", "--out", "here")
    assert result.exit_code == 0 and result.stderr == ""
    assert "visual_cortex_nearest: Pfister & Gerstner 2006, Table 3; visual cortex, layer 5" in result.stdout
    assert "E = 0.232, the mean of the squares over 10 points; chi2 = 2.32" in result.stdout
    assert {path.name for path in (here / "here").iterdir()} == {"changes.csv", "changes.png", "sjostrom2001.csv"}
    wanted = FrequencySweep().run(TripletSTDP.preset("visual_cortex_nearest"))
    np.testing.assert_array_equal(changes(here / "here" / "changes.csv"), wanted.change)
    assert wanted.table() in result.stdout
    assert (here / "here" / "changes.png").read_bytes().startswith(b"\x89PNG")


def test_keys_reach_the_protocol_and_the_rule(here: Path) -> None:
    result = run(
        "plasticity", "triplet", "pairing", "dt=-20:20:10", "n=10", "protocol.rate=2", "pairing=nearest",
        "rule.tau_x=50", "A2_plus=1e-3", "--engine", "torch",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "TripletSTDP (parameters of your own)\npairing, 4.64 s, torch engine" in result.stdout
    rule = TripletSTDP(pairing="nearest", tau_x=50.0, A2_plus=1e-3)
    wanted = Pairing(dt=(-20.0, -10.0, 0.0, 10.0, 20.0), n=10, rate=2.0).run(rule, "torch").change
    np.testing.assert_array_equal(changes(here / "runs" / "plasticity-triplet-pairing" / "changes.csv"), wanted)


def test_data_of_these_conditions_are_offered() -> None:
    def offered(*words: str) -> list[str]:
        return re.findall(r"--data (\w+)", run("plasticity", "triplet", *words, "n=2", "tau_x=90").stdout)

    assert offered("frequency", "rates=10,40") == ["sjostrom2001", "markram_regular"]
    assert offered("frequency", "rates=3") == [] and offered("striatal", "dt=10") == [
        "fino2010",
        "fino2010_gaba_blocked",
        "pawlak2008",
    ]
    assert offered("frequency", "rates=10", "--data", "sjostrom2001") == []


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("dt=10",), Pairing(dt=(10.0,))),
        (("dt=10,-10.5",), Pairing(dt=(10.0, -10.5))),
        (("dt=[10, -10]",), Pairing(dt=(10.0, -10.0))),
        (("dt=5:-5:-2.5",), Pairing(dt=(5.0, 2.5, 0.0, -2.5, -5.0))),
        (("dt=0:0.3:0.1",), Pairing(dt=(0.0, 0.1, 0.2, 0.3))),
        (("rate=1e-1", "n=3"), Pairing(rate=0.1, n=3)),
    ],
)
def test_lists_and_ranges(words: tuple[str, ...], wanted: Pairing) -> None:
    assert cli_plasticity.choose("triplet", "pairing", words)[1] == wanted


def test_optional_lists_and_tuples_of_fixed_length() -> None:
    def made(protocol: str, *words: str) -> Any:
        return cli_plasticity.choose("triplet", protocol, words)[1]

    assert made("frequency", "grouping=[5,15,10000]").grouping == (5, 15, 10000.0)
    assert made("triplet", "dt=[[5,-5],[-3,5]]").lags == ((5.0, -5.0), (-3.0, 5.0))
    assert made("triplet", "dt=null", "order=post-pre-post").lags[0] == (-5.0, 5.0)
    assert made("low_frequency", "lag=5").lag == 5.0 and made("tetanus", "lag=null").lag is None


def test_recorded_variables_are_written_and_drawn(here: Path) -> None:
    words = ("dt=10,-10", "n=3", "--record", "w, r1", "--every", "10", "--replicates", "2", "--out", "x")
    result = run("plasticity", "triplet", "pairing", *words)
    assert result.exit_code == 0, result.output
    names = {path.name for path in (here / "x").iterdir()}
    assert names == {"changes.csv", "changes_traces.csv", "changes.png", "traces.png", "weights.png"}
    head = (here / "x" / "changes_traces.csv").read_text().splitlines()[0]
    assert head == "dt (ms),replicate,time (ms),w,r1"


def test_a_protocol_whose_figure_is_the_course_records_the_weight(here: Path) -> None:
    result = run("plasticity", "triplet", "tetanus", "trains=1,2", "gap=5", "seconds=0.2", "tau_x=90", "--out", "x")
    assert result.exit_code == 0, result.output
    lines = (here / "x" / "changes_traces.csv").read_text().splitlines()
    # 5.3 s, read every 6 ms, twice
    assert lines[0].endswith("time (ms),w") and 700 < len(lines) / 2 <= cli_plasticity.READINGS + 2


def test_warnings_are_one_line_each_and_said_once() -> None:
    result = run(*FREQUENCY, "grouping=[5,15,10000]", "rates=20", "dt=10.25", "--engine", "torch")
    assert result.exit_code == 0
    fit, grid = result.stderr.splitlines()
    assert fit.startswith("warning: TripletSTDP preset 'visual_cortex_nearest'") and "contiguous trains" in fit
    assert grid.startswith("warning: spike times are not on the grid of dt = 1 ms")
    assert run(*FREQUENCY, "rates=20", "dt=10.25", "--engine", "torch", "--dt", "0.25").stderr == ""


def test_brian_gives_the_same_table_and_no_noise() -> None:
    words = ("plasticity", "triplet", "pairing", "dt=10,-10", "n=3", "tau_x=90")
    ours, theirs = run(*words), run(*words, "--engine", "brian")
    assert theirs.exit_code == 0 and theirs.stderr == ""
    assert theirs.stdout == ours.stdout.replace("reference engine", "brian engine")


def test_without_matplotlib_the_numbers_are_written_all_the_same(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> Any:
        raise ImportError("figures need matplotlib: pip install 'spikecredit[plot]'")

    monkeypatch.setitem(figures.PLOTS, "window", absent)
    result = run("plasticity", "triplet", "pairing", "n=2", "--out", "x")
    assert result.exit_code == 0 and [path.name for path in (here / "x").iterdir()] == ["changes.csv"]
    assert result.stderr == "warning: figures need matplotlib: pip install 'spikecredit[plot]'\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("triplt", "pairing"), "no rule 'triplt'; did you mean 'triplet'?"),
        (("triplet", "piaring"), "no protocol 'piaring'; did you mean 'pairing'?"),
        (("triplet/visual_cortex_neares", "pairing"), "did you mean 'visual_cortex_nearest'?"),
        (("triplet/", "pairing"), "triplet has no preset ''"),
        (("triplet", "pairing", "rat=3"), "'rat=3': neither pairing nor triplet has 'rat'; did you mean 'rate'?"),
        (("triplet", "pairing", "tau_plu=3"), "did you mean 'tau_plus'?"),
        (("triplet", "pairing", "rule.n=3"), "'rule.n=3': the rule triplet has no 'n'"),
        (("triplet", "pairing", "protocol.tau_x=3"), "the protocol pairing has no 'tau_x'"),
        (("triplet", "pairing", "protocl.n=3"), "neither pairing nor triplet has 'protocl.n'"),
        (("triplet", "pairing", "n"), "'n': expected key=value, such as n=60"),
        (("triplet", "pairing", "n=x"), "override 'n=x': expected an integer, got text 'x'"),
        (("triplet", "pairing", "n=0"), "n is a number of pairs, an integer of at least 1, got 0"),
        (("triplet", "pairing", "pairing=nerest"), "did you mean 'nearest'?"),
        (("triplet", "pairing", "dt=10:0:5"), "is a range from:to:step, and 5 does not lead from 10 to 0"),
        (("triplet", "frequency", "rates=10", "grouping=[5,15,300]"), "overlap: each lasts 400 ms"),
        (("triplet/hippocampus_nearest", "pairing", "tau_x=3"), "cannot be mixed with tau_x=3: for a set of your own"),
        (("triplet", "pairing", "--data", "sjostrom"), "no data 'sjostrom'; did you mean 'sjostrom2001'"),
        (("triplet", "pairing", "--data", "sjostrom2001"), "compare it with frequency"),
        (("triplet", "pairing", "--record", "q", "n=1"), "cannot record 'q': the model has w, r1, r2, o1, o2"),
        (("triplet", "pairing", "--every", "3"), "--every needs --record"),
        (("triplet", "pairing", "--device", "cuda"), "--device cuda is for --engine torch"),
        (("triplet", "pairing", "--dt", "0"), "dt is a step in ms, positive"),
        (("triplet", "pairing", "--engine", "nest"), "'reference', 'torch', 'brian'"),
        (("triplet", "poisson", "rates=2000"), "too fast for one spike per grid"),
    ],
)
def test_mistakes_are_met_with_a_sentence_and_leave_nothing(words: tuple[str, ...], told: str, here: Path) -> None:
    assert told in refused(*words)
    assert list(here.iterdir()) == []


def test_data_that_do_not_fit_are_refused_before_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pairing, "run", lambda *_, **__: pytest.fail("it ran"))
    assert "compare it with frequency" in refused("triplet", "pairing", "--data", "sjostrom2001")


def test_a_preset_names_all_its_values_for_a_set_of_your_own() -> None:
    told = refused("triplet/hippocampus_nearest", "pairing", "tau_x=3")
    values = re.findall(r"\w+=[\w.+-]+", told.partition("values too:")[2])
    rule = cli_plasticity.choose("triplet", "pairing", tuple(values))[0]
    assert rule == TripletSTDP.preset("hippocampus_nearest")


def test_list_shows_rules_with_their_presets_protocols_and_data() -> None:
    text = run("list", "plasticity").stdout
    for name, rule in RULES.items():
        assert f"{name}: {rule.__name__}(" in text
        for preset, row in rule.PRESETS.items():
            line = next(line for line in text.splitlines() if f"{name}/{preset} " in line)
            assert row.source in line and ("verified" in line) == row.verified == ("from memory" not in line)
    text = run("list", "protocols").stdout
    assert [line.split(":")[0] for line in text.splitlines()[::2]] == list(PROTOCOLS)
    assert "pairing: Pairing(dt=(-100.0, -95.0, ..., 100.0), n=60, rate=1.0)" in text
    text = run("list", "datasets").stdout
    assert all(f"{name}: " in text and data.source in text for name, data in DATASETS.items())
    assert "from memory: Wang" in text
    assert "did you mean 'protocols'?" in run("list", "protocol").stderr
