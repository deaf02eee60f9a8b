"""Brain regions and cell types: which published rule, experiment and data there are of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikecredit.plasticity.rule import Preset


@dataclass(frozen=True)
class Study:
    """One published rule in the experiment that it is known by; the words of a command line.

    Args:
        rule: RULE/PRESET. protocol: its kind. words: its KEY=VALUE. data: a name in `DATASETS`.
        replicates: synapses per condition, for a rule with noise.
    """

    rule: str
    protocol: str
    words: tuple[str, ...] = ()
    data: str | None = None
    replicates: int = 1

    @property
    def preset(self) -> "Preset":
        """The rule's published set."""
        from spikecredit.plasticity import RULES  # it imports us

        rule, _, preset = self.rule.partition("/")
        return RULES[rule].PRESETS[preset]

    @property
    def command(self) -> str:
        """What to type."""
        data = ("--data", self.data) if self.data else ()
        more = ("--replicates", str(self.replicates)) if self.replicates > 1 else ()
        return " ".join(("spikecredit plasticity", self.rule, self.protocol, *self.words, *more, *data))


@dataclass(frozen=True)
class Region:
    """Synapses of one kind.

    Args:
        title: which.
        evidence: what was measured there, in a sentence, with its source.
        studies: the first is what `spikecredit plasticity REGION` runs. Empty: no rule has numbers for it.
        data: published data without a rule, names in `DATASETS`.
    """

    title: str
    evidence: str
    studies: tuple[Study, ...] = ()
    data: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether the numbers of the first study were read in their source."""
        return bool(self.studies) and self.studies[0].preset.verified

    @property
    def status(self) -> str:
        """In words."""
        return "no numbers" if not self.studies else "verified" if self.verified else "from memory"


GROUPS = "grouping=[5,15,10000]"
REGIONS: Mapping[str, Region] = {
    "neocortex_l5": Region(
        "neocortex, layer 5 (visual)",
        "Sjöström et al. 2001: at +10 ms nothing at 0.1 Hz and LTP from 10 Hz on; at -10 ms LTD to 20 Hz, LTP above.",
        (
            Study("triplet/visual_cortex_nearest", "frequency", (), "sjostrom2001"),
            Study("triplet/visual_cortex_nearest_minimal", "frequency", (), "sjostrom2001"),
            Study("triplet/visual_cortex_all_to_all", "frequency", (), "sjostrom2001"),
            Study("triplet/visual_cortex_all_to_all_minimal", "frequency", (), "sjostrom2001"),
            Study("voltage/visual_cortex", "authors_sweep"),
            Study("calcium/cortical_slices", "frequency", (GROUPS,), "sjostrom2001", 200),
        ),
    ),
    "neocortex_l23": Region(
        "neocortex, layer 2/3",
        "Froemke & Dan 2002: windows of 13.3 and 34.5 ms whose pairs suppress others; Nevian & Sakmann 2006: bursts.",
        (Study("suppression/visual_cortex", "pairing"), Study("voltage/somatosensory", "burst")),
    ),
    "hippocampus_culture": Region(
        "hippocampus, culture",
        "Bi & Poo 1998: LTP within 16.8 ms of pre before post, LTD within 33.7 ms of the other; 60 pairs at 1 Hz.",
        (
            Study("pair/bi_poo", "pairing"),
            Study("triplet/hippocampus_nearest", "triplet", (), "wang2005"),
            Study("triplet/hippocampus_all_to_all", "triplet", (), "wang2005"),
            Study("calcium/hippocampal_cultures", "pairing", (), None, 200),
        ),
    ),
    "ca3_ca1": Region(
        "hippocampus, CA3 to CA1",
        "Inglebert et al. 2020: at +10 ms in 1.8 mM calcium one spike depresses, two do nothing, three or four "
        "potentiate; in 1.3 mM one spike does nothing.",
        (Study("calcium/hippocampal_slices", "burst", ("dt=10", "n_post=1,2,3,4", "rate=1"), "inglebert2020", 50),),
    ),
    "mossy_fibre": Region(
        "hippocampus, mossy fibre to CA3",
        "PMC3008852: a single spike 10 ms after the EPSP potentiates, 30 ms before it depresses; bursts potentiate "
        "after it and do nothing before it. No rule was fitted to it, and only signs are known to us.",
        data=("mossy_fibre",),
    ),
    "striatum": Region(
        "striatum, GABA intact",
        "Fino et al. 2010: anti-Hebbian, 161.2 % for post before pre and 72.3 % for pre before post.",
        (Study("box/striatum", "striatal", (), "fino2010"),),
    ),
    "striatum_gaba_blocked": Region(
        "striatum, GABA_A blocked",
        "Fino et al. 2010: the signs turn, to those of a Hebbian window; how large is not in our source.",
        (Study("box/striatum_gaba_blocked", "striatal", (), "fino2010_gaba_blocked"),),
    ),
    "striatum_dopamine": Region(
        "striatum, Hebbian with dopamine",
        "Pawlak & Kerr 2008: +45 % at +10 ms and -34 % at -30 ms in two example cells, both only with dopamine. No "
        "rule was fitted to it.",
        data=("pawlak2008",),
    ),
    "purkinje": Region(
        "cerebellum, parallel fibre to Purkinje cell",
        "Depression of parallel fibres that fire 50 to 200 ms before a climbing fibre (about 120 ms in the flocculus), "
        "potentiation of those that fire alone.",
        (Study("anti_hebbian/purkinje", "pairing", ("dt=-100:400:10",)),),
    ),
    "ell": Region(
        "electrosensory lobe of mormyrid fish",
        "Neuron 27:611 (2000): depression where a dendritic spike follows the EPSP, potentiation by every EPSP alone; "
        "the window ends about 50 ms after the EPSP's onset.",
        (Study("anti_hebbian/ell", "pairing"),),
    ),
    "gabaergic": Region(
        "GABAergic synapses",
        "D'amour & Froemke: pairs in either order potentiate inhibition (auditory cortex, layer 5); without numbers, "
        "so the rule's are those of a model.",
        (Study("inhibitory/gabaergic_sfc", "pairing"),),
    ),
}  # fmt: skip
