"""What judges: the area under the ROC curve, and scores under shared weights."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

import nas
from nas import scoring
from nas.data import prepare
from nas.network import FixedNetwork
from nas.scoring import area_under_roc, best_of, shared_scores, val_logits, val_scores
from nas.space import Space

from .synthetic import noise


def test_the_area_equals_scikit_learn_with_and_without_ties():
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (41,), generator=source)
    scores = torch.stack([torch.randn(41, generator=source), torch.randint(0, 4, (41,), generator=source).float()])
    expected = [roc_auc_score(labels, row) for row in scores]
    torch.testing.assert_close(area_under_roc(scores, labels), torch.tensor(expected, dtype=torch.float64))


def test_constant_scores_give_one_half():
    assert area_under_roc(torch.zeros(2, 6), torch.tensor([0, 1, 1, 0, 1, 1])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_area_of_scores_that_are_not_finite_is_undefined(value):
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, value, 0.3, 0.4], [value] * 4])
    areas = area_under_roc(scores, torch.tensor([0, 1, 0, 1])).tolist()
    assert areas[0] == 0.75
    assert all(math.isnan(area) for area in areas[1:])


LAYERS = ("visual/l0", "visual/l1", "audio/l0")
SPACE = Space(LAYERS, operations=("Sum", "ConcatFC", "LinearGLU"))
SEARCH = nas.SearchConfig(
    channels=4, epochs=2, warmup_epochs=1, cells=1, steps=1, min_steps_per_epoch=2, samples=2, derive="argmax"
)


@pytest.fixture(scope="module")
def searched():
    features, labels, split = noise(windows=96)
    given = ({name: features[name] for name in LAYERS}, labels, split)
    return given, nas.search(*given, SEARCH, keep_weights=True)[0].weights


def test_what_cannot_be_scored_is_never_the_best(searched):
    given, weights = searched
    broken = {name: x * math.nan if ".LinearGLU." in name or ".ConcatFC." in name else x for name, x in weights.items()}
    every = list(SPACE.genotypes())
    data = prepare(*given, None, reads="train_val")
    scores = shared_scores(*given, every, broken)
    assert scores.isnan().any()
    for drawn in (every, every[::-1]):
        (best, score), *others = best_of(drawn, SPACE, data, broken, count=len(every)).items()
        assert math.isnan(others[-1][1])
        assert score == max(value for value in scores.tolist() if not math.isnan(value))
        assert scores[every.index(best)] == score


def test_parts_are_even_and_random_samples(searched, monkeypatch):
    """Where there are more rows than one pass takes, the last part is no smaller than the others: 24 are 12 and 12."""
    (features, labels, split), weights = searched
    sizes = []
    forward = FixedNetwork.forward

    def seen(self, batch, how):
        sizes.append(next(iter(batch.values())).shape[1])
        return forward(self, batch, how)

    monkeypatch.setattr(FixedNetwork, "forward", seen)
    every = list(SPACE.genotypes())
    monkeypatch.setattr(scoring, "JUDGED_ROWS", 23)
    shared_scores(features, labels, split, every[:2], weights)
    assert sizes == [12] * 4
    monkeypatch.setattr(scoring, "JUDGED_ROWS", 48)
    shared_scores(features, labels, split, every[:3], weights)
    assert sizes[4:] == [24] * 2


def test_every_run_is_scored_by_its_own_weights(searched):
    given, _ = searched
    results = nas.search(*given, SEARCH, (1, 2, 3), keep_weights=True)
    weights = {name: torch.cat([r.weights[name] for r in results]) for name in results[0].weights}
    data = prepare(*given, None, reads="train_val")
    together = val_logits(data, [r.genotype for r in results], weights)
    for result, logits in zip(results, together, strict=True):
        torch.testing.assert_close(val_logits(data, [result.genotype], result.weights)[0], logits, atol=1e-5, rtol=0)


def test_without_a_limit_the_best_of_the_whole_space_is_found(searched):
    given, weights = searched
    data, every = prepare(*given, None, reads="train_val"), list(SPACE.genotypes())
    scores = val_scores(data, every, weights)
    (found, score), *others = best_of(every[:1], SPACE, data, weights, count=10_000).items()
    assert [score for _, score in others] == sorted((score for _, score in others), reverse=True)
    assert scores[every.index(found)] == score == scores.max()
    assert scores[0] < scores.max()


def test_a_limit_counts_what_is_compared_and_the_drawn_ones_come_first(searched, monkeypatch):
    given, weights = searched
    data, every = prepare(*given, None, reads="train_val"), list(SPACE.genotypes())
    compared = []

    def counted(data, genotypes, weights):
        compared.extend(genotypes)
        return val_scores(data, genotypes, weights)

    monkeypatch.setattr("nas.scoring.val_scores", counted)
    best_of([*every[:4], *every[:4]], SPACE, data, weights, count=14)
    assert compared[:4] == every[:4]
    assert len(set(compared)) == len(compared) == 14
    scores = val_scores(data, compared[:4], weights).tolist()
    best = compared[scores.index(max(scores))]
    beside = [g for g in SPACE.neighbours(best) if g not in compared[:4]]
    assert compared[4 : 4 + len(beside)] == beside
