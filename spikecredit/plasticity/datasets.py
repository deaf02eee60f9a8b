"""Published changes of synaptic strength with their standard errors, to hold a rule against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spikecredit.plasticity.language import nearest

Place = float | tuple[float, float]
"""Where on an axis a point was measured: at a value, or pooled over a range (its ends left out)."""
NO_CHANGE = 0.05
"""Where only a sign was published, a model that changes no more than this counts as no change. The number is ours."""
SIGNS = {1: "LTP", 0: "none", -1: "LTD"}


@dataclass(frozen=True)
class Point:
    """One published value: relative change of strength, 0.1 for 10 % more.

    Args:
        at: its place on every axis of the data.
        change: mean; NaN where only the sign is known. sem: standard error of the mean; NaN for a single cell.
        n: cells; None: not in our source.
        sign: 1, 0 or -1 where that is all our source says: potentiation, no change, depression.
    Raises:
        ValueError: both or neither of change and sign, or a sign that is none.
    """

    at: Mapping[str, Place]
    change: float = math.nan
    sem: float = math.nan
    n: int | None = None
    sign: int | None = None

    def __post_init__(self) -> None:
        if (self.sign is None) == math.isnan(self.change) or self.sign not in (None, *SIGNS):
            raise ValueError(
                "a point has a change, such as 0.1, or a sign alone, 1, 0 or -1; got "
                f"change = {self.change!r} and sign = {self.sign!r}"
            )

    def agrees(self, change: float) -> bool | None:
        """Whether a model's change has this point's sign, within `NO_CHANGE`; None where more than a sign is known."""
        if self.sign is None:
            return None
        return self.sign == (0 if abs(change) <= NO_CHANGE else math.copysign(1, change))

    @property
    def text(self) -> str:
        """The change, or the sign as LTP, none or LTD."""
        return f"{self.change:+.2f}" if self.sign is None else SIGNS[self.sign]

    def covers(self, row: Mapping[str, float]) -> bool:
        """Whether a condition of an experiment is one in which this point was measured."""
        for axis, place in self.at.items():
            inside = place[0] < row[axis] < place[1] if isinstance(place, tuple) else math.isclose(row[axis], place)
            if not inside:
                return False
        return True


@dataclass(frozen=True)
class Dataset:
    """A published experiment.

    Args:
        name: in `DATASETS`.
        axes: what varies, with units, as in `Experiment.axes`.
        points: the values.
        source: paper, and where the numbers were read.
        verified: whether the numbers were read there. False: from memory.
        region: whose synapses.
        protocols: kinds of protocols (`PROTOCOLS`) that repeat it.
        note: what else a reader must know.
    """

    name: str
    axes: Mapping[str, str]
    points: Sequence[Point]
    source: str
    verified: bool
    region: str
    protocols: tuple[str, ...]
    note: str = ""

    def places(self, axes: Mapping[str, str], rows: Sequence[Mapping[str, float]]) -> list[tuple[Point, list[int]]]:
        """The points that an experiment measures, each with the conditions that do so.

        Args:
            axes, rows: of the experiment (`Experiment`).
        Raises:
            ValueError: other axes, or no condition in common.
        """
        if dict(axes) != dict(self.axes):
            raise ValueError(
                f"{self.name} was measured over {headed(self.axes)}, and this experiment varies {headed(axes)}: "
                f"compare it with {' or '.join(self.protocols)}"
            )
        found = [(point, [c for c, row in enumerate(rows) if point.covers(row)]) for point in self.points]
        if not any(inside for _, inside in found):
            wanted = "; ".join(
                f"{axis} = {', '.join(dict.fromkeys(written(point.at[axis]) for point in self.points))}"
                for axis in self.axes
            )
            raise ValueError(f"{self.name} has no point in common with these conditions; it was measured at {wanted}")
        return [(point, inside) for point, inside in found if inside]


def headed(axes: Mapping[str, str]) -> str:
    """The axes with their units: rate (Hz), dt (ms)."""
    return ", ".join(f"{name} ({unit})" if unit else name for name, unit in axes.items())


def written(place: Place | str) -> str:
    """A place on an axis as text; conditions that have names are called by them."""
    if isinstance(place, str):
        return place
    return f"{place[0]:g} to {place[1]:g}" if isinstance(place, tuple) else f"{place:g}"


def _points(axis: str, values: Mapping[float, tuple[float, float]], **fixed: float) -> list[Point]:
    """Points along one axis, value to (mean, SEM), others fixed."""
    return [Point({axis: at, **fixed}, change, sem) for at, (change, sem) in values.items()]


VISUAL = "visual cortex, layer 5"
_FILES = "data file of Graupner's CalciumBasedPlasticityModel"
_SETS = (
    Dataset(
        "sjostrom2001",
        {"rate": "Hz", "dt": "ms"},
        [
            *_points("rate", {0.1: (-0.04, 0.05), 10: (0.14, 0.10), 20: (0.29, 0.14), 40: (0.53, 0.11),
                              50: (0.56, 0.26)}, dt=10.0),
            *_points("rate", {0.1: (-0.29, 0.08), 10: (-0.41, 0.11), 20: (-0.34, 0.10), 40: (0.56, 0.32),
                              50: (0.75, 0.19)}, dt=-10.0),
        ],
        f"Sjöström, Turrigiano & Nelson 2001, as in the vhlab toolbox and in a {_FILES}",
        True, VISUAL, ("frequency",),
        "15 groups of 5 pairs every 10 s, at 0.1 Hz 50 pairs; Pfister & Gerstner 2006 fitted it as 60 contiguous pairs",
    ),
    Dataset(
        "sjostrom2001_stochastic",
        {"rate": "Hz"},
        _points("rate", {1: (-0.25, 0.1), 20: (-0.15, 0.05), 35: (0.0, 0.1), 50: (0.35, 0.15)}),
        f"Sjöström, Turrigiano & Nelson 2001, random pairing, as in a {_FILES}",
        True, VISUAL, ("poisson",),
        "the file's first column has no heading: it is read as Hz; how long the trains were is not in it",
    ),
    Dataset(
        "markram_regular",
        {"rate": "Hz", "dt": "ms"},
        [
            *_points("rate", {2: (-0.01, 0.04), 5: (0.02, 0.06), 10: (0.26, 0.08), 20: (0.36, 0.08), 30: (0.42, 0.08),
                              40: (0.50, 0.12)}, dt=5.0),
            Point({"rate": 10.0, "dt": -10.0}, -0.21, 0.03),
        ],
        f"experiments of the kind of Markram et al. 1997, as in the {_FILES}, henry_regular.dat",
        True, "neocortex, layer 5", ("frequency",),
    ),
    Dataset(
        "wang2005",
        {"dt1": "ms", "dt2": "ms"},
        [
            Point({"dt1": first, "dt2": second}, change, sem)
            for first, second, change, sem in (
                (5.0, -5.0, -0.01, 0.04), (10.0, -10.0, 0.03, 0.04), (15.0, -5.0, 0.01, 0.03), (5.0, -15.0, 0.24, 0.06),
                (-5.0, 5.0, 0.33, 0.04), (-10.0, 10.0, 0.34, 0.04), (-5.0, 15.0, 0.22, 0.08), (-15.0, 5.0, 0.29, 0.05),
            )
        ],
        "Wang, Gerkin, Nauen & Bi 2005, as in Pfister & Gerstner 2006",
        False, "hippocampal culture", ("triplet",),
    ),
    Dataset(
        "fino2010",
        {"dt": "ms"},
        [Point({"dt": (-30.0, 0.0)}, 0.612, 0.141, 21), Point({"dt": (0.0, 40.0)}, -0.277, 0.069, 14)],
        "Fino et al. 2010, PMC2956944, figure 1",
        True, "striatum, GABA intact", ("striatal", "pairing"),
        "pooled over lags; 100 pairs at 1 Hz; the signs turn when GABA_A receptors are blocked",
    ),
    Dataset(
        "fino2010_gaba_blocked",
        {"dt": "ms"},
        [Point({"dt": (-30.0, 0.0)}, sign=-1), Point({"dt": (0.0, 40.0)}, sign=1)],
        "Fino et al. 2010, PMC2956944, abstract: blocking GABA reverses the order of signs",
        True, "striatum, GABA_A blocked", ("striatal", "pairing"),
        "signs only; the lags are those that were pooled with GABA intact",
    ),
    Dataset(
        "pawlak2008",
        {"dt": "ms"},
        [Point({"dt": 10.0}, 0.45), Point({"dt": -30.0}, -0.34)],
        "Pawlak & Kerr 2008, PMC6671189, figure 2",
        True, "striatum", ("striatal", "pairing"),
        "two example cells, so without standard errors; needs dopamine",
    ),
    Dataset(
        "mossy_fibre",
        {"dt": "ms"},
        [Point({"dt": 10.0}, sign=1), Point({"dt": -30.0}, sign=-1)],
        "PMC3008852 (J. Physiol. 2010), abstract and figure 5: single spikes",
        True, "hippocampus, mossy fibre to CA3", ("pairing",),
        "signs only; how many pairs and at what rate is not in our source; bursts after the EPSP potentiate too, "
        "bursts before it (20 and 50, 100 and 200 ms) change nothing",
    ),
    Dataset(
        "inglebert2020",
        {"dt": "ms", "n_post": "", "rate_post": "Hz"},
        [
            Point({"dt": 10.0, "n_post": n, "rate_post": (0.0, math.inf)}, sign=sign)
            for n, sign in ((1.0, -1), (2.0, 0), (3.0, 1), (4.0, 1))
        ],
        "Inglebert, Aljadeff, Brunel & Debanne 2020, PMC7777146, figure 4A: 1.8 mM calcium",
        True, "hippocampus, CA3 to CA1, 1.8 mM calcium", ("burst",),
        "signs only; the rate within bursts, and how often they were repeated, is not in our source; in 1.3 mM one "
        "spike changes nothing",
    ),
)  # fmt: skip


def dataset(name: str) -> Dataset:
    """Published data by name.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    if name not in DATASETS:
        raise ValueError(f"no data {name!r}{nearest(name, list(DATASETS))} (there are {', '.join(DATASETS)})")
    return DATASETS[name]


DATASETS: dict[str, Dataset] = {data.name: data for data in _SETS}
