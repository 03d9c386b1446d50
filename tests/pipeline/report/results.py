"""What other commands leave of the made-up run: protocols, robustness, evidence, an audit, shards; and a page, read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd

from cache_schemas.evaluation import read_evaluation
from cache_schemas.files import write_json
from cache_schemas.media import FACES, SPECTROGRAMS
from cache_schemas.protocol import PROTOCOL_VERSION
from cache_schemas.shards import ClipResult, write_shard
from cache_schemas.tables import write_table
from pipeline.runs.evaluate import write_results
from pipeline.statistics.means import MEAN, MEANS, PAIRS
from pipeline.statistics.measure import measure
from pipeline.workspace import Workspace

HOSTILE_NAME = '</script><script>alert("y")</script><img src=//evil.example/b.png>'


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text without styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data + " "


def still(html: str) -> str:
    """The page as it is without its scripts and specifications."""
    return re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def value(middle: float) -> dict[str, Any]:
    """A value with an interval."""
    return {"value": middle, "low": middle - 0.05, "high": middle + 0.05, "reason": None}


def write_more(workspace: Workspace, index: pd.DataFrame) -> None:
    """Adds all of it to an evaluated run, and makes the fusion network wrong on one real clip of a hostile name."""
    clips, scores = read_evaluation(workspace.evaluate)
    wrong = clips.loc[(clips["split"] == "test") & (clips["label"] == 0), "clip_id"].iloc[0]
    clips.loc[clips["clip_id"] == wrong, ["path", "method", "group"]] = HOSTILE_NAME
    scores.loc[(scores["clip_id"] == wrong) & (scores["system"] == "fusion"), "score"] = 0.99
    result = measure(clips, scores) | {"seed": 0} | extras()
    write_results(workspace.evaluate, clips, scores, result)
    write_protocol(
        workspace, "leave-one-source-out", [("one", 0.68), (HOSTILE_NAME, 0.58), (PAIRS, 0.59), (MEAN, 0.63)]
    )
    write_protocol(workspace, "people", [("all", 0.9)])
    write_json(workspace.robustness / "robustness.json", robustness())
    write_pictures(workspace, index)


def extras() -> dict[str, Any]:
    """The parts of metrics.json that are not there of every run."""
    network = {
        "reason": None,
        "clips": 16,
        "answered": 11,
        "withheld": {"face_share": {"clips": 5, "real": 2, "fake": 3}},
        "curve": {"coverage": [0.2, 1.0], "risk": [0.0, 0.25]},
    }
    names = ("coverage", "risk", "risk_if_all_were_answered", "cost", "cost_if_all_were_answered", "area")
    network |= {name: value(0.2) for name in names}
    return {
        "calibration": {
            "kind": "isotonic",
            "limits": [-1.4, 1.2],
            "reliability": {"predicted": [0.1, 0.5, 0.9], "observed": [0.2, 0.0, 0.8], "n": [5, 0, 6]},
            "tippett": {"real": [[-1.4, 1.0], [0.5, 0.0]], "fake": [[-1.0, 1.0], [1.2, 0.0]]},
            "cllr": {"before": 0.8, "after": 0.6},
            "reason": None,
        },
        "evidence": {
            "costs": {"missed": 10, "alarm": 1, "cannot_tell": 0.1, "prior_fake": 0.05},
            "systems": {"fusion": network, "visual": {"reason": "val: one class only"}},
        },
        "audit": [
            {"check": "leading silence", "found": True, "says": "leading silence tells them apart"},
            {"check": HOSTILE_NAME, "found": False, "says": "nothing"},
            {"check": "epochs", "found": False, "says": "not checked: another cache"},
        ],
        "looks": {"times": 7, "test": "ab", "by": {"evaluate": 4, HOSTILE_NAME: 3}},
    }


def write_protocol(
    workspace: Workspace, name: str, tests: list[tuple[str, float]], left_out: str | None = None
) -> None:
    """A protocol of one method, by what was tested and its AUC; what it adds by pairs and by tests has other signs."""
    rows = [
        {
            "trained_on": tested if tested in MEANS else f"all but {tested}",
            "tested_on": "2 tests" if tested in MEANS else tested,
            "method": "search",
            "seeds": 2, "people": 4, "real": 6, "fake": 12, "fakes_missed": 0.2, "reals_accused": 0.1,
            "auc": auc, "eer": 0.2, "auc_one": auc, "auc_low": auc - 0.08, "auc_high": auc + 0.08,
        }
        for tested, auc in tests
    ]  # fmt: skip
    undefined = {**rows[0], "tested_on": "only fakes", "trained_on": "all but only fakes"}
    rows.insert(1, {key: cell for key, cell in undefined.items() if "auc" not in key})
    pairs = {"control": HOSTILE_NAME, "difference": -0.02, "low": -0.1, "high": 0.05, "p": 0.4}
    mean = {"control": "probe", "difference": 0.01, "low": -0.06, "high": 0.07, "p": 0.8}
    adds = {"method": "search", "tests": 2, "pairs": pairs, "mean": mean, "sentence": f"adds to {HOSTILE_NAME}."}
    skipped = [{"trained_on": "none", "reason": "too few people"}]
    by = {"leave-one-source-out": "dataset", "leave-one-method-out": "method"}.get(name, left_out)
    kind = "leave-one-out" if by else "people"
    protocol = {"description": f"Of {name}.", "kind": kind, "by": by}
    content = {"schema_version": PROTOCOL_VERSION, "protocol": protocol, "seed": 0, "cache": "", "adds": adds}
    write_json(workspace.protocols / name / "protocol.json", content | {"rows": rows, "skipped": skipped})
    one = {"clip_id": "a", "trained_on": "b", "tested_on": "c", "person": "d", "label": 1, "method": "search"}
    scores = pd.DataFrame([one | {"seed": 0, "score": 0.5, "threshold": 0.5}])
    write_table(workspace.protocols / name / "scores.csv", scores)


def robustness() -> dict[str, Any]:
    """The content of robustness.json."""
    curves = [
        {
            "degradation": title,
            "title": title,
            "modality": modality,
            "clean": {"fusion": value(0.9)},
            "severities": [
                {"severity": n, "setting": f"setting {n}", "clips": 16, "systems": {"fusion": value(0.9 - n / 10)}}
                for n in (1, 2, 3)
            ],
        }
        for title, modality in (("H.264", "visual"), (HOSTILE_NAME, "audio"))
    ]
    return {"clean": {"fusion": {"auc": value(0.9)}}, "curves": curves, "left_out": [{"clip_id": "a"}]}


def write_pictures(workspace: Workspace, index: pd.DataFrame) -> None:
    """A shard of faces and one of spectrograms of every test clip, a colour and a ramp each."""
    faces, sounds = [], []
    for number, (clip_id, own) in enumerate(index[index["split"] == "test"].groupby("clip_id")):
        starts = tuple(own["start_s"])
        faces.append(ClipResult(str(clip_id), "plan", starts, faces_of(len(starts), 10 * number)))
        sound = {
            "spectrogram": np.tile(np.linspace(-9, 0, 50, dtype=np.float32), (len(starts), 8, 1)),
            "waveform": np.zeros((len(starts), 4), np.int16),
        }
        sounds.append(ClipResult(str(clip_id), "", starts, sound))
    write_shard(workspace.faces, FACES, "some parameters", faces)
    write_shard(workspace.spectrograms, SPECTROGRAMS, "some parameters", sounds)


def faces_of(windows: int, colour: int) -> Mapping[str, Any]:
    """The arrays of so many windows of ten pictures of one colour."""
    return {
        "crops": np.full((windows, 10, 16, 16, 3), colour, np.uint8),
        "boxes": np.zeros((windows, 10, 4), np.float32),
        "probabilities": np.ones((windows, 10), np.float32),
        "landmarks": np.zeros((windows, 10, 5, 2), np.float32),
    }
