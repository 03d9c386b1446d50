"""Runs that fail without their companions, and choices that collapse."""

import json
import pickle

import pytest
import torch

import nas
from nas.baselines import train_design
from nas.failures import collapse_warnings
from nas.space import Space

from .synthetic import noise

SEARCH = nas.SearchConfig(
    channels=8, epochs=4, warmup_epochs=1, batch_size=8, min_steps_per_epoch=2, samples=2, candidates=8
)
TRAINING = nas.RetrainConfig(channels=8, epochs=6, batch_size=8, patience=3, min_steps_per_epoch=2)
WELL, DIVERGES, VANISHES = SEARCH, {"weight_lr": 1e38, "weight_lr_min": 1e38}, {"temperature": 1e12}
STEPS = (nas.Step(x="x", y="y", operation="ConcatFC"),)
GENOTYPES = [nas.Genotype(cells=(nas.Cell(x="visual/l0", y=y, steps=STEPS),)) for y in ("audio/l0", "audio/l1")]


def changed(changes):
    return SEARCH.model_copy(update=changes)


def test_failed_searches_are_marked_and_their_companions_go_on():
    configs = [changed(VANISHES), WELL, changed(DIVERGES)]
    vanished, well, diverged = nas.search(*noise(), configs, (3, 4, 5), keep_weights=True)
    alone = nas.search(*noise(), WELL, (4,))[0]
    assert (well.failed, well.genotype, well.score) == ("", alone.genotype, alone.score)
    assert well.curves == alone.curves
    assert vanished.failed.startswith("seed 3: the mean norm of the architecture gradient in epoch 1 is ")
    assert "temperature" in vanished.failed
    assert diverged.failed.startswith("seed 5 diverged in epoch ")
    assert "learning rate" in diverged.failed
    assert "temperature" not in diverged.failed
    assert diverged.weights is vanished.weights is None
    for result, kind in ((vanished, nas.VanishingArchitectureGradient), (diverged, nas.Diverged)):
        assert result.curves[-1]["epoch"] == result.error.epoch
        json.dumps(result.curves, allow_nan=False)
        for name in ("genotype", "score", "probabilities"):
            with pytest.raises(kind):
                getattr(result, name)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [(VANISHES, nas.VanishingArchitectureGradient), (DIVERGES, nas.Diverged)],
    ids=["vanish", "diverge"],
)
def test_where_all_searches_fail_the_error_holds_them(changes, kind):
    epochs = []
    with pytest.raises(kind, match=r"seed 3[\s\S]*seed 9") as caught:
        nas.search(
            *noise(), changed({**changes, "epochs": 30}), (3, 9), progress=lambda call: epochs.append(call["epoch"])
        )
    assert len(epochs) < 5, "nothing is left to compute"
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert str(again) == str(caught.value)
    assert [result.failed for result in again.results] == [result.failed for result in caught.value.results]
    assert [result.seed for result in again.results] == [3, 9]


def poisoned(genotype, monkeypatch):
    """Make the trainings of a genotype diverge in their third epoch."""
    from nas.training import Training

    epoch = Training.epoch

    def poison(self, number):
        if number == 2:
            for name, value in self.network.named_parameters():
                runs = [i for i, r in enumerate(self.network.runs_of(name)) if self.network.genotypes[r] == genotype]
                value.data[runs] = torch.inf
        return epoch(self, number)

    monkeypatch.setattr(Training, "epoch", poison)


@pytest.mark.parametrize("seeds", [(3, 3), (3, 4)])
def test_a_training_that_diverges_is_marked_and_its_companion_goes_on(seeds, monkeypatch):
    alone = nas.retrain(*noise(), GENOTYPES[1], TRAINING, seeds[1:])[0]
    poisoned(GENOTYPES[0], monkeypatch)
    diverged, well = nas.retrain(*noise(), GENOTYPES, TRAINING, seeds)
    assert torch.equal(well.scores, alone.scores)
    assert (well.failed, well.best_epoch, well.val_auc) == ("", alone.best_epoch, alone.val_auc)
    assert diverged.failed.startswith("seed 3 diverged in epoch 2: ")
    assert diverged.curves[-1]["val_auc"] is None
    assert len(diverged.curves) == 3
    assert diverged.genotype == GENOTYPES[0]
    for name in ("scores", "best_epoch", "network", "val_auc"):
        with pytest.raises(nas.Diverged):
            getattr(diverged, name)


@pytest.mark.parametrize(
    "train",
    [
        lambda config: nas.retrain(*noise(), GENOTYPES[0], config, (3, 4)),
        lambda config: train_design(*noise(), "GMU", config, (3, 4)),
    ],
    ids=["retrain", "train_design"],
)
def test_where_all_trainings_diverge_the_error_is_raised(train):
    with pytest.raises(nas.Diverged, match=r"seed 3 diverged in epoch 0[\s\S]*seed 4 diverged") as caught:
        train(TRAINING.model_copy(update=DIVERGES))
    assert [result.seed for result in caught.value.results] == [3, 4]


def row(epoch, **shares):
    return {"epoch": epoch, **{f"share_{name}": value for name, value in shares.items()}}


def test_collapse_is_told_with_run_share_and_epoch():
    space = Space(("visual/a", "visual/b", "audio/c"), 1, 1)
    curve = [row(0, visual=0.99, sum=0.3), row(1, visual=0.5, sum=0.95), row(2, visual=0.96, sum=0.97)]
    assert collapse_warnings(curve, 7, space) == [
        "seed 7: 96% of what the cells read is visual (since epoch 3)",
        "seed 7: 97% of the operations are Sum, the one without weights (since epoch 2)",
    ]
    assert collapse_warnings([row(0, visual=0.02, edges=0.98)], 1, space) == [
        "seed 1: 98% of what the cells read is audio (since epoch 1)",
        "seed 1: 98% of the edges are kept: nothing is chosen (since epoch 1)",
    ]
    assert collapse_warnings([row(0, visual=0.5, edges=0.1)], 1, space) == [
        "seed 1: 90% of the edges are none: the cells read next to nothing (since epoch 1)"
    ]
    assert collapse_warnings([row(0, visual=0.5, sum=0.5, edges=0.4)], 1, space) == []
