"""A run made of random numbers, and a parser that checks a page: for the tests of reports and comparisons."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np

from spikecredit.analysis.report import RunRecord

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that tags nest; keeps attributes and text by tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.ids = [], [], {}, []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def record(label="backprop", seed=0, epochs=4, steps=10, neurons=(120, 260)):
    """A run made of random numbers."""
    rng = np.random.default_rng(seed)
    layer = ("error_angle", "error_norm", "true_error_norm", "weight_angle", "weight_norm", "feedback_norm")
    lines = [
        {
            "event": "epoch", "epoch": e, "step": 36 * e, "lr": 1e-3, "seconds": 1.0, "violations": 0,
            "train_loss": None if e == 0 else float(rng.random()), "train_accuracy": None if e == 0 else 1 - 0.5**e,
            "validation_loss": float(rng.random()), "validation_accuracy": 1 - 0.6**e,
            "layers": {
                f"layers.{2 * i + 1}": dict.fromkeys(layer, float(rng.random())) | {"sign_agreement": 1.0}
                for i in range(len(neurons) + 1)
            },
            "activity": {
                f"layers.{2 * i + 2}": {"spikes": 2.0, "rate": float(rng.random()), "silent": 0.1}
                for i in range(len(neurons))
            },
            "spectrum": {
                f"layers.{2 * i + 1}": {"entropy": float(rng.random()), "largest": 0.5, "dead": 0.125 * e / epochs}
                for i in range(len(neurons) + 1)
            },
        }
        for e in range(epochs + 1)
    ]  # fmt: skip
    signs = np.where(np.arange(neurons[0]) % 5 == 0, -1, 1).astype(np.int8)[None]
    weight = np.abs(rng.normal(size=(neurons[1], neurons[0]))) * signs
    return RunRecord(
        label=label,
        epochs=lines,
        result={
            "test_accuracy": 0.9 + 0.01 * seed, "test_loss": 0.3, "selected_epoch": 3, "seconds": 12.0,
            "samples_per_second": 800.0, "spikes_per_neuron": 2.5, "violations": 0,
        },
        config={"seed": seed, "pathway": {"kind": "backprop"}, "hidden": (100, 50)},
        environment={"torch": "2.13.0", "device": "cpu", "threads": 2},
        raster={f"layers.{2 * i + 2}": (rng.random((steps, n)) < 0.3).astype(float) for i, n in enumerate(neurons)}
        | {"readout": rng.random((steps, 10))},
        sample=rng.random((1, 8, 8)),
        weights={"layers.1": (rng.normal(size=(neurons[0], 64)), None), "layers.3": (weight, signs)},
        notes=["Dale's law: error carriers are exempt (feedback='exempt')."],
    )  # fmt: skip


def figures(text):
    return re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)


def words(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def assert_self_contained(text, page):
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,"))
    assert "@import" not in text and len(page.ids) == len(set(page.ids))
    for figure in figures(text):
        assert ElementTree.fromstring(figure).get("aria-label")
