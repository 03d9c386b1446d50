"""Probes find what is linear, what is not, and say nothing about what they were not fitted on."""

import numpy as np
import pytest
import torch

from pipeline.controls.probes import probe_sets, probes, stacked
from pipeline.statistics.metrics import auc

SPLIT = ["train"] * 200 + ["val"] * 100 + ["test"] * 100
LABELS = np.arange(400) % 2


def features(kind: str) -> dict[str, torch.Tensor]:
    """kind: linear (a shift of the means) or radial (only the distance from the centre tells)."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(400, 4, 8, generator=source)
    fake = torch.from_numpy(LABELS == 1)
    if kind == "linear":
        x[fake, 0] += 1.0
    else:
        x = x.mean(dim=2, keepdim=True).expand(400, 4, 8).clone()
        x[fake] *= 3.0
    return {"visual/a": x[:, :2].mT.half(), "audio/b": x[:, 2:].mT.half()}


@pytest.mark.parametrize("kind", list(probes))
def test_a_shift_of_the_means_is_found(kind: str) -> None:
    probe = probes[kind](features("linear"), LABELS, SPLIT)
    assert auc(LABELS[300:], probe.scores[300:]) > 0.9
    assert probe.parameters > 0
    assert ((probe.scores >= 0) & (probe.scores <= 1)).all()


def test_only_the_kernel_sees_a_distance() -> None:
    scores = {kind: auc(LABELS[300:], probes[kind](features("radial"), LABELS, SPLIT).scores[300:]) for kind in probes}
    assert scores["SVM"] > 0.85
    assert scores["logistic regression"] < 0.7


@pytest.mark.parametrize("kind", list(probes))
def test_of_windows_without_sound_the_picture_alone_counts(kind: str) -> None:
    """Neither do they move what is learnt of the others' sound."""
    given, mute = features("linear"), np.arange(400) % 8 < 2
    given = {"visual/a": given["visual/a"], "audio/b": given["audio/b"] + 20}
    given["audio/b"][mute] = 0
    found = probes[kind](given, LABELS, SPLIT)
    assert np.isfinite(found.scores).all()
    alone = probes[kind]({"audio/b": given["audio/b"]}, LABELS, SPLIT)
    assert len(set(alone.scores[mute])) == 1
    assert found.scores[mute].std() > 0.01
    heard = np.flatnonzero(~mute)
    others = {"audio/b": given["audio/b"][heard]}
    only = probes[kind](others, LABELS[heard], [SPLIT[i] for i in heard])
    test = heard >= 300
    assert auc(LABELS[heard][test], alone.scores[heard][test]) == pytest.approx(
        auc(LABELS[heard][test], only.scores[test]), abs=0.02
    )


def test_scores_do_not_depend_on_the_test_split() -> None:
    changed = LABELS.copy()
    changed[300:] = 1 - changed[300:]
    for probe in probes.values():
        np.testing.assert_array_equal(
            probe(features("linear"), LABELS, SPLIT).scores, probe(features("linear"), changed, SPLIT).scores
        )


def test_every_layer_every_modality_and_all_are_probed() -> None:
    sets = probe_sets(["visual/a", "visual/b", "audio/c"])
    assert sets["all visual layers"] == ["visual/a", "visual/b"]
    assert sets["all layers"] == ["visual/a", "visual/b", "audio/c"]
    assert list(sets)[:3] == ["visual/a", "visual/b", "audio/c"]


def test_stacking_is_fitted_on_val_alone() -> None:
    source = np.random.default_rng(0)
    good = np.clip(LABELS * 0.6 + source.normal(0.2, 0.2, 400), 0.01, 0.99)
    noise = source.uniform(0.01, 0.99, 400)
    joined = stacked([good, noise], LABELS, SPLIT)
    assert auc(LABELS[300:], joined[300:]) > 0.9
    changed = LABELS.copy()
    changed[:200] = 1 - changed[:200]
    np.testing.assert_array_equal(joined, stacked([good, noise], changed, SPLIT))
