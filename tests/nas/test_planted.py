"""Acceptance: the search finds a planted interaction, and the network trained on it separates the classes."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

import nas

from .synthetic import AUDIO, VISUAL, planted

SEEDS = range(10)
NEEDED = 9


def reads_the_pair(genotype: nas.Genotype) -> bool:
    return any({cell.x, cell.y} == {VISUAL, AUDIO} for cell in genotype.cells)


@pytest.mark.slow
def test_the_planted_pair_is_found_in_nine_of_ten_seeds_and_classifies_new_windows():
    features, labels, split = planted()
    config = nas.SearchConfig(channels=16, weight_lr=3e-3)  # a narrow network learns the interaction at a higher rate
    found = nas.search(features, labels, split, config, seeds=SEEDS)
    assert sum(reads_the_pair(result.genotype) for result in found) >= NEEDED

    config = nas.RetrainConfig(channels=32, epochs=30)
    genotypes = [result.genotype for result in found]
    trained = nas.retrain(features, labels, split, genotypes, config, seeds=SEEDS)
    test = torch.tensor([name == "test" for name in split])
    aucs = [roc_auc_score(labels[test], result.scores[test]) for result in trained if reads_the_pair(result.genotype)]
    assert min(aucs) > 0.95


def test_neither_layer_alone_tells_the_label():
    """Without this the acceptance test would not ask for an interaction."""
    features, labels, _ = planted(windows=4000)
    for name in (VISUAL, AUDIO):
        means = [features[name][labels == label].mean((0, 2)) for label in (0, 1)]
        assert (means[0] - means[1]).abs().max() < 0.15
