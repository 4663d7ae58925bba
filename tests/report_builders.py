"""Tables of a run with seeded numbers and hostile names, and a reader of pages, for tests of reports."""

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

from deblora.report.page import Page, render_html

NAMES = (
    "cargo",
    "tanker",
    "container",
    "fishing boat",
    "bulk carrier",
    "tug",
    "dredger",
    "passenger",
    "law enforcement",
    "wing-in-ground <script>alert(1)</script>",
    "sail & $pleasure$ \x00",
    "救助船",
)
COUNTS = np.array([900, 610, 380, 210, 150, 96, 60, 41, 25, 14, 9, 5])
METHODS = (
    ("zero-shot", 0.62, 0.18),
    ("lora", 0.71, 0.27),
    ("cdal <b>", 0.70, 0.30),
    ("deblora", 0.705, 0.41),
)
CLASSIFIERS = ("cross_entropy", "balanced_softmax")


class Reader(HTMLParser):
    """Tags, ids and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [str(value) for key, value in attrs if key == "id"]
        self.links += [str(value) for key, value in attrs if key in ("src", "href", "xlink:href")]


def write_page(page: Page, name: str) -> str:
    """Render a page, and keep it when the variable DEBLORA_KEEP_REPORT names a folder."""
    text = render_html(page)
    if "DEBLORA_KEEP_REPORT" in os.environ:
        (Path(os.environ["DEBLORA_KEEP_REPORT"]) / f"{name}.html").write_text(text, encoding="utf-8")
    return text


def drawings(page: str) -> list[str]:
    """Return the drawings of a page as SVG."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    return [base64.b64decode(text).decode() for text in found]


def scores_and_differences() -> tuple[pd.DataFrame, pd.DataFrame]:
    scores, differences = [], []
    for method, head, tail in METHODS:
        for j, classifier in enumerate(CLASSIFIERS):
            by_group = {
                "head": head - 0.02 * j,
                "middle": 0.5,
                "tail": tail + 0.05 * j,
                "all": (2 * head + tail) / 3,
            }
            by_gain = {"head": head - 0.71 - 0.01 * j, "middle": 0.004, "tail": tail - 0.27, "all": 0.01}
            for group, value in by_group.items():
                width = 0.08 if group == "tail" else 0.03
                name = {"method": method, "classifier": classifier, "group": group}
                if (method, classifier, group) != ("zero-shot", "balanced_softmax", "middle"):
                    ends = {"value": value, "ci_lower": value - width, "ci_upper": value + width}
                    of = {"dataset": "ships", "backbone": "galileo-nano", "metric": "macro_f1"}
                    scores.append({**of, **name, **ends})
                if method != "lora":
                    gain = by_gain[group]
                    ends = {"value": gain, "ci_lower": gain - width / 1.6, "ci_upper": gain + width / 1.6}
                    baseline = {"baseline": "lora", "baseline_classifier": classifier}
                    differences.append({**name, **baseline, **ends})
    return pd.DataFrame(scores), pd.DataFrame(differences)


def classes(names: tuple[str, ...] = NAMES, counts: np.ndarray = COUNTS) -> pd.DataFrame:
    third = len(names) // 3
    groups = ["head"] * third + ["middle"] * third + ["tail"] * (len(names) - 2 * third)
    splits = {"train": counts, "val": 8, "test": 30}
    return pd.DataFrame(
        {"class": names, "group": groups, **splits, "alpha, deblora": np.minimum(1, counts / 90)}
    )


def projection(panel: str, spread: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    middles = rng.normal(0, 20, (12, 2))
    labels = np.repeat(np.arange(12), np.minimum(COUNTS, 90))
    places = middles[labels] + rng.normal(0, spread, (len(labels), 2))
    kinds = np.where(rng.random(len(labels)) < 0.3, "test", "train")
    means = {"train mean": middles, "test mean": middles + 4.0, "center": middles * 0.4}
    means["test mean"][11] = np.nan
    frames = [
        pd.DataFrame({"kind": kinds, "class": np.array(NAMES)[labels], "x": places[:, 0], "y": places[:, 1]})
    ]
    frames += [
        pd.DataFrame({"kind": name, "class": NAMES, "x": own[:, 0], "y": own[:, 1]})
        for name, own in means.items()
    ]
    return pd.concat(frames, ignore_index=True).assign(panel=panel)


def class_f1() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    base = np.linspace(0.85, 0.1, 12)
    frames = []
    for i, (method, classifier) in enumerate((m, c) for m in ("lora", "deblora") for c in CLASSIFIERS):
        value = np.clip(base + np.linspace(-0.06, 0.1, 12) * i + rng.normal(0, 0.04, 12), 0, 1)
        frames.append(
            pd.DataFrame({"method": method, "classifier": classifier, "class": NAMES, "value": value})
        )
    return pd.concat(frames, ignore_index=True)


def confusion() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = []
    for method in ("lora", "deblora"):
        for i, true in enumerate(NAMES):
            counts = rng.multinomial(30, 0.6 * np.eye(12)[i] + 0.4 * rng.dirichlet(np.ones(12)))
            found = zip(NAMES, counts.tolist(), strict=True)
            rows += [(method, "cross_entropy", true, name, n) for name, n in found if n]
    return pd.DataFrame(rows, columns=["method", "classifier", "true", "predicted", "n"])


def history() -> pd.DataFrame:
    steps = np.arange(0, 600, 10)
    losses = {"lora": 2.2 * np.exp(-steps / 160) + 0.3, "deblora": 0.9 * np.exp(-steps / 220) + 0.08}
    frames = [pd.DataFrame({"name": name, "step": steps, "loss": loss}) for name, loss in losses.items()]
    return pd.concat(frames, ignore_index=True)
