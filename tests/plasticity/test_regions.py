"""Regions: each names rules, protocols and data that exist, and runs as it says or says why not."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from spikecredit import cli, cli_plasticity
from spikecredit.plasticity import DATASETS, REGIONS, RULES, BoxSTDP, InhibitorySTDP, StriatalPairing


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli.main, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("name", REGIONS)
def test_what_a_region_names_exists_and_its_data_fit_its_protocol(name: str) -> None:
    region = REGIONS[name]
    assert name not in RULES and len(region.evidence) > 40
    assert region.studies or region.data
    assert all(data in DATASETS for data in region.data)
    for study in region.studies:
        rule, protocol = cli_plasticity.choose(study.rule, study.protocol, study.words)
        assert rule.published == study.rule.partition("/")[2]
        if study.data:
            made, data = protocol.experiment(), DATASETS[study.data]
            assert [point for point, _ in data.places(made.axes, made.rows)] == list(data.points)
    assert region.verified == (bool(region.studies) and region.studies[0].preset.verified)


def test_the_regions_of_the_issue_are_there() -> None:
    wanted = ("neocortex_l5", "neocortex_l23", "ca3_ca1", "mossy_fibre", "striatum", "purkinje", "ell", "gabaergic")
    assert set(wanted) <= set(REGIONS)
    memory = {name for name, region in REGIONS.items() if region.status == "from memory"}
    assert memory == {"neocortex_l23", "hippocampus_culture", "striatum_gaba_blocked", "purkinje", "ell"}
    assert {name for name, region in REGIONS.items() if not region.studies} == {"mossy_fibre", "striatum_dopamine"}


def test_a_region_alone_runs_its_rule_protocol_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("plasticity", "striatum")
    assert result.exit_code == 0, result.output
    command, rest = result.stdout.split("\n\n", 1)
    assert command == "spikecredit plasticity box/striatum striatal --data fino2010"
    assert (
        "fino2010: Fino et al. 2010" in rest and (tmp_path / "runs" / "plasticity-striatum" / "fino2010.csv").exists()
    )
    same = run(*shlex.split(command)[1:])
    assert same.stdout.replace("-box-striatum-striatal", "-striatum") == rest


def test_signs_alone_are_compared_as_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("plasticity", "striatum_gaba_blocked")
    assert result.exit_code == 0, result.output
    assert "2 of 2 signs agree" in result.stdout and "E =" not in result.stdout
    written = (tmp_path / "runs" / "plasticity-striatum_gaba_blocked" / "fino2010_gaba_blocked.csv").read_text()
    assert [line.split(",")[-2:] for line in written.splitlines()] == [
        ["sign", "agrees"],
        ["-1", "True"],
        ["1", "True"],
    ]
    wrong = StriatalPairing().run(BoxSTDP.preset("striatum")).compare("fino2010_gaba_blocked")
    assert wrong.agrees == (False, False) and "disagrees" in wrong.table() and np.isnan(wrong.chi2)


def test_a_region_without_a_rule_is_refused_with_what_is_known() -> None:
    for name in ("mossy_fibre", "striatum_dopamine"):
        result = run("plasticity", name)
        assert result.exit_code == 2 and REGIONS[name].evidence in " ".join(result.stderr.split())
    for words, told in (
        (("striatun",), "no region or rule 'striatun'; did you mean 'striatum'"),
        (("triplet",), "triplet needs a PROTOCOL"),
        (("striatum", "pairing"), "striatum is a region, which runs alone"),
    ):
        result = run("plasticity", *words)
        assert result.exit_code == 2 and told in " ".join(result.stderr.split())


def test_list_regions_shows_commands_that_can_be_typed() -> None:
    text = run("list", "regions").stdout
    for name, region in REGIONS.items():
        assert f"{name}: {region.title} ({region.status})" in text
    commands = re.findall(r"^ +(spikecredit plasticity .*)$", text, re.MULTILINE)
    assert len(commands) == sum(len(region.studies) for region in REGIONS.values())
    assert "spikecredit plasticity triplet/visual_cortex_nearest frequency --data sjostrom2001" in commands
    assert "calcium/hippocampal_slices burst dt=10 n_post=1,2,3,4 rate=1 --replicates 50" in text


def test_gabaergic_pairs_potentiate_in_either_order() -> None:
    rule = InhibitorySTDP.preset("gabaergic_sfc")
    assert rule.alpha == pytest.approx(0.2) and rule.tau == 30.0
    made = cli_plasticity.choose("inhibitory/gabaergic_sfc", "pairing", ("dt=-10,10", "n=1"))
    change = made[1].run(made[0]).change
    assert change[0] == pytest.approx(change[1]) and change[0] == pytest.approx(0.075 * (np.exp(-1 / 3) - 0.2))
