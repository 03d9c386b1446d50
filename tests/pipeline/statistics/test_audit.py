"""What makes a figure look better than it is, planted in tables: each is named, and clean tables have no finding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cache_schemas.manifest import Clip, find_leaks
from cache_schemas.run import RetrainEntry
from pipeline.statistics import metrics
from pipeline.statistics.audit import (
    check_epochs,
    check_files,
    check_people,
    check_properties,
    check_random_weights,
    check_trained,
)
from pipeline.statistics.tables import clips as one_a_clip
from tests.pipeline.run_fixture import make_index

Random = np.random.Generator


def clips(seed: int = 0, subjects: int = 40, **changed: Any) -> pd.DataFrame:
    """A table of clips whose properties know nothing of the label."""
    random, table = np.random.default_rng(seed), one_a_clip(make_index(subjects=subjects, windows=1))
    n = len(table)
    table = table.assign(
        duration_s=random.uniform(4, 9, n),
        leading_silence_s=random.uniform(0, 0.3, n),
        loudness_db=random.normal(-20, 3, n),
        file_bytes=random.integers(10**5, 10**6, n),
        width_px=random.choice([224, 256, 640], n),
        height_px=random.choice([224, 256, 480], n),
    )
    return table.assign(**{name: change(table, random) for name, change in changed.items()})


def by_name(findings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in findings}


@pytest.mark.parametrize("subjects", [10, 40])
def test_properties_that_know_nothing_are_not_named(subjects: int) -> None:
    found = [each for seed in range(6) for each in check_properties(clips(seed, subjects), trimmed=True)]
    assert not [each["says"] for each in found if each["found"]]


def silent(table: pd.DataFrame, random: Random) -> Any:
    """Fake sound begins late, as in FakeAVCeleb."""
    return table["leading_silence_s"] + 0.3 * table["category"].str.endswith("FA")


@pytest.mark.parametrize(
    ("changed", "check", "says"),
    [
        ({"leading_silence_s": silent}, "leading silence", r"leading silence alone tells fake sound .* AUC of 1\.00"),
        (
            {"leading_silence_s": lambda t, _: t["leading_silence_s"].mask(t["category"] == "RVRA")},
            "leading silence",
            r"leading silence alone tells fake from real with an AUC of 1\.00",
        ),
        (
            {"height_px": lambda t, _: np.where(t["category"].str.startswith("F"), 256, t["height_px"])},
            "resolution",
            r"picture height alone tells fake pictures from real",
        ),
        (
            {"width_px": lambda t, random: np.where(t["label"] | (random.random(len(t)) < 0.2), 256, 640)},
            "resolution",
            r"picture width alone tells fake from real with an AUC of 0\.9",
        ),
        ({"file_bytes": lambda t, _: t["file_bytes"] * (1 + 9 * t["label"])}, "other properties", "file size alone"),
    ],
)
def test_a_property_that_tells_the_label_is_named_alone(changed: Any, check: str, says: str) -> None:
    found = check_properties(clips(**changed), trimmed=True)
    assert [each["check"] for each in found] == ["leading silence", "resolution", "other properties"]
    assert [each["check"] for each in found if each["found"]] == [check]
    named = by_name(found)[check]
    assert pd.Series(named["says"]).str.contains(says).all(), named["says"]
    assert "a detector that sees nothing else looks right" in named["says"]
    if check == "leading silence":
        assert "windows begin behind it" in named["says"]
        assert "begin behind" not in by_name(check_properties(clips(**changed), trimmed=False))[check]["says"]


def test_what_is_known_of_no_clip_is_not_checked() -> None:
    unknown = clips(leading_silence_s=lambda t, _: np.nan)
    assert by_name(check_properties(unknown, trimmed=True))["leading silence"] == {
        "check": "leading silence",
        "found": False,
        "says": "not checked: it is known for no clip, or there is one class only",
    }


def clip(number: int, split: str, subject: str, source: str = "", target: str = "") -> Clip:
    fake = int(bool(source))
    return Clip(
        f"c{number}", f"{number}.mp4", "d", subject, source, target, fake, 0, fake, "FVRA" if fake else "RVRA", "m",
        split, 1, split_kind="official",
    )  # fmt: skip


HONEST = [clip(0, "train", "a"), clip(1, "val", "b"), clip(2, "test", "c"), clip(3, "test", "c", "d")]


def test_a_donor_in_two_splits_is_named_as_one() -> None:
    """A person in two splits, as a donor only: the subjects are apart."""
    planted = [*HONEST, clip(4, "test", "c", "x", "a"), clip(5, "val", "b", "d")]
    found = by_name(check_people(find_leaks(planted), official=True, donors_named=True))
    assert not found["a person in two splits"]["found"]
    donor = found["a donor in two splits"]
    assert donor["found"]
    assert donor["says"].startswith("official split: 2 donors leak: they give face or voice to clips of a split")
    assert "(1 in train and test; 1 in val and test): a, d; what is learnt" in donor["says"]


def test_a_subject_in_two_splits_is_named() -> None:
    found = by_name(check_people(find_leaks([*HONEST, clip(4, "test", "a")]), official=False, donors_named=True))
    assert found["a person in two splits"]["found"]
    assert (
        "1 people are the subject of clips in two splits (1 in train and test): a"
        in (found["a person in two splits"]["says"])
    )
    assert not found["a donor in two splits"]["found"]


def test_people_apart_are_no_finding_and_unnamed_donors_are_not_checked() -> None:
    assert not [each for each in check_people(find_leaks(HONEST), official=True, donors_named=True) if each["found"]]
    unnamed = by_name(check_people([], official=True, donors_named=False))["a donor in two splits"]
    assert (unnamed["found"], unnamed["says"][:13]) == (False, "not checked: ")


def val_windows(seed: int = 0, n: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3 > 0
    scores = 1 / (1 + np.exp(-(2.0 * labels - 1 + random.normal(size=n))))
    return pd.DataFrame({"label": labels.astype(int), "score": scores, "weight": np.where(labels, 0.75, 1.5)})


def figures(windows: pd.DataFrame) -> dict[str, float | None]:
    told = np.where(windows["label"] == 1, windows["score"], 1 - windows["score"])
    loss = float((windows["weight"] * -np.log(told)).mean())
    return {"val_auc": metrics.auc(windows["label"], windows["score"]), "val_loss": loss}


def entry(curves: list[dict[str, float | None]], best_epoch: int) -> RetrainEntry:
    return RetrainEntry(
        network="fusion", seed=3, genotype={}, spec={}, weights="w.safetensors", best_epoch=best_epoch, curves=curves
    )


VAL = val_windows()
CURVE: list[dict[str, float | None]] = [
    {"val_auc": 0.6, "val_loss": 0.9},
    figures(VAL),
    {"val_auc": 0.7, "val_loss": 0.4},
    {**figures(VAL), "val_loss": 5.0},
]


def epochs(curves: list[dict[str, float | None]], best: int, val: Mapping[Any, Any] | None = None) -> dict[str, Any]:
    return check_epochs([entry(curves, best)], {("fusion", 3): VAL} if val is None else val, "no val scores")


def test_an_honest_network_is_no_finding() -> None:
    found = epochs(CURVE, 1)
    assert (found["found"], found["says"]) == (
        False, "the epochs of 1 networks are the best of their val curves, and the weights give val's figures again",
    )  # fmt: skip
    nearly = VAL.assign(score=VAL["score"] + np.random.default_rng(0).normal(size=len(VAL)) * 1e-5)
    assert not epochs(CURVE, 1, {("fusion", 3): nearly})["found"], "another device rounds otherwise"
    unlooked = epochs(CURVE, 1, {})
    assert not unlooked["found"]
    assert unlooked["says"].endswith("not checked: whether the weights are of those epochs: no val scores")


def test_scores_that_are_all_but_sure_may_be_rounded() -> None:
    """A softmax in 32 bits says 1.0 of what its logits still rank, and what it loses there is no sign of a cheat."""
    labels = np.repeat([0, 1], 30)
    logits = np.where(labels, 25.0, 20.0) - np.random.default_rng(0).uniform(0, 1, 60)
    windows = pd.DataFrame({"label": labels, "weight": 1.0, "score": 1 / (1 + np.exp(-logits.astype(np.float32)))})
    windows["score"] = windows["score"].astype(np.float32).astype(float)
    assert (windows["score"] == 1.0).any()
    assert not epochs([{"val_auc": 1.0, "val_loss": 9.8}], 0, {("fusion", 3): windows})["found"]


@pytest.mark.parametrize("best", [0, 2, 3, 9])
def test_an_epoch_that_is_not_vals_best_is_named(best: int) -> None:
    """3 has the AUC of the best and more loss; 9 there is not."""
    found = epochs(CURVE, best)
    assert found["found"]
    assert f"fusion, seed 3: epoch {best} was kept" in found["says"]
    assert "val's best is epoch 1" in found["says"]
    assert found["says"].endswith("its epoch was chosen by something else than val")


@pytest.mark.parametrize("other", [val_windows(1), VAL.assign(score=1 / (1 + (1 / VAL["score"] - 1) ** 2))])
def test_weights_of_another_epoch_are_named(other: pd.DataFrame) -> None:
    """Chosen by test, and the epoch written down that val would have chosen; the second ranks alike, and is surer."""
    found = epochs(CURVE, 1, {("fusion", 3): other})
    assert found["found"]
    assert "fusion, seed 3: its weights give a val_" in found["says"]
    assert "of epoch 1, which they should be of" in found["says"]


def test_a_curve_that_knows_test_is_named() -> None:
    found = epochs([{**row, "test_auc": 0.9} for row in CURVE], 1)
    assert found["found"]
    assert "its curve holds test_auc" in found["says"]
    assert epochs([], 0)["found"]


def scored(fusion: float, random: float, *, seed: int = 0, subjects: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(clips, scores) of systems whose logits are so many deviations apart between the classes."""
    draw, table = np.random.default_rng(seed), clips(seed, subjects)
    parts = [
        pd.DataFrame(
            {"clip_id": table.index, "window": 0, "system": system, "seed": s,
             "score": 1 / (1 + np.exp(-(apart * table["label"] + draw.normal(size=len(table)))))}
        )
        for system, apart in (("fusion", fusion), ("random weights", random))
        for s in range(2)
    ]  # fmt: skip
    return table, pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("subjects", [10, 40])
def test_random_weights_at_chance_are_no_finding(subjects: int) -> None:
    for seed in range(8):
        for fusion in (2.0, 0.0):  # a fusion that is no better is another matter
            found = check_random_weights(*scored(fusion, 0.0, seed=seed, subjects=subjects), seed=0)
            assert not found["found"], found["says"]


@pytest.mark.parametrize(("fusion", "random", "subjects"), [(3.0, 1.5, 40), (0.45, 0.4, 150)])
def test_random_weights_that_score_are_named(fusion: float, random: float, subjects: int) -> None:
    """Far above chance; or above it, and fusion adds nothing that is sure."""
    found = check_random_weights(*scored(fusion, random, subjects=subjects), seed=0)
    assert found["found"], found["says"]
    assert "can be read without anything learnt of faces or voices" in found["says"]
    assert found["says"].startswith("random weights reach an AUC of 0.")


def test_without_the_control_it_is_not_checked() -> None:
    table, scores = scored(2.0, 0.0)
    found = check_random_weights(table, scores[scores["system"] == "fusion"], seed=0)
    assert (found["found"], found["says"][:13]) == (False, "not checked: ")


def files(*rows: tuple[str, str, str, str]) -> dict[str, Any]:
    table = pd.DataFrame(rows, columns=["clip_id", "split", "path", "audio_path"])
    return check_files(table, table.assign(pictures=table["path"]))


def test_a_file_in_two_splits_is_named_whatever_goes_with_it() -> None:
    clean = [("c1", "train", "a.mp4", ""), ("c2", "test", "b.mp4", ""), ("c3", "test", "b.mp4", "other.wav")]
    assert not files(*clean)["found"]
    picture = files(*clean, ("c4", "train", "b.mp4", "third.wav"))
    assert (picture["found"], picture["says"]) == (
        True, "1 files stand in two splits or more: b.mp4 in test and train",
    )  # fmt: skip
    assert files(*clean, ("c4", "val", "d.mp4", "other.wav"))["found"]
    assert files(*clean, ("c1", "val", "copy.mp4", ""))["found"]


def test_pictures_in_two_splits_are_named_whatever_their_files_are() -> None:
    clean = pd.DataFrame(
        {"clip_id": ["a", "b", "c"], "split": ["train", "train", "test"], "path": ["a.mp4", "b.mp4", "c.mkv"],
         "audio_path": ""}
    )  # fmt: skip
    assert not check_files(clean, clean.assign(pictures=["1", "1", "2"]))["found"]
    found = check_files(clean, clean.assign(pictures=["1", "2", "2"]))
    assert found["found"]
    assert found["says"].endswith(
        "2 clips are, to the bit, those of clips in another split: b.mp4 (train) and c.mkv (test)"
    )


def test_a_test_clip_that_was_learnt_from_is_named() -> None:
    index = make_index(subjects=10)
    assert not check_trained(index, trained_on="i", identity="i")["found"]
    planted = index.assign(
        split=index["split"].mask((index["clip_id"] == "s04-RVFA") & (index["window"] == 1), "train")
    )
    found = check_trained(planted, trained_on="i", identity="i")
    assert found["found"]
    assert "1 of 8 test clips have windows in train or val, the first is s04/RVFA.mp4" in found["says"]
    for other in ("", "j"):
        assert check_trained(index, trained_on=other, identity="i")["says"].startswith("not checked: ")
