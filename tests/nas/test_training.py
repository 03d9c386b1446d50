"""Retraining through its public interface: isolation of splits and runs, early stopping, what it returns."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

import nas
from nas import Cell, Genotype, Step

from .synthetic import AUDIO, VISUAL, noise, planted, with_views

SMALL = nas.RetrainConfig(channels=8, epochs=6, batch_size=8, patience=3, min_steps_per_epoch=2)


def genotype(x: str, y: str, *operations: str) -> Genotype:
    first, second = operations
    steps = (Step(x="x", y="y", operation=first), Step(x="step1", y="x", operation=second))
    return Genotype(cells=(Cell(x=x, y=y, steps=steps), Cell(x="cell1", y=x, steps=steps)))


GENOTYPES = [
    genotype("visual/l0", "audio/l1", "ConcatFC", "LinearGLU"),
    genotype("audio/l0", "visual/l1", "ScaledDotAttn", "Sum"),
    genotype("visual/l0", "visual/l1", "LinearGLU", "ScaledDotAttn"),
]


@pytest.fixture(scope="module")
def results():
    return nas.retrain(*noise(), GENOTYPES, SMALL, seeds=(3, 4, 5))


def test_every_run_scores_every_row(results):
    features, _, _ = noise()
    for result, seed, architecture in zip(results, (3, 4, 5), GENOTYPES, strict=True):
        assert (result.seed, result.genotype) == (seed, architecture)
        assert result.scores.shape == (48,)
        assert ((result.scores > 0) & (result.scores < 1)).all()
        torch.testing.assert_close(result.network.predict(features), result.scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head", ["mean", "flatten"])
def test_the_network_is_rebuilt_from_its_description_and_weights(head):
    features, _, _ = noise()
    for result in nas.retrain(
        *noise(), GENOTYPES, SMALL.model_copy(update={"head": head, "epochs": 2}), seeds=(3, 4, 5)
    ):
        assert result.network.spec()["head"] == head
        again = nas.CompactNetwork.from_spec(result.network.spec())
        again.load_state_dict(result.network.state_dict(), strict=True)
        read = {name: features[name] for name in result.genotype.layers()}
        torch.testing.assert_close(again.predict(read), result.scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", [0, 1, 2])
def test_a_run_does_not_depend_on_the_runs_beside_it(results, run):
    alone = nas.retrain(*noise(), GENOTYPES[run], SMALL, seeds=(3 + run,))[0]
    torch.testing.assert_close(alone.scores, results[run].scores, rtol=0, atol=1e-5)
    assert alone.best_epoch == results[run].best_epoch
    assert len(alone.curves) == len(results[run].curves)


def test_the_same_seed_gives_the_same_scores(results):
    again = nas.retrain(*noise(), GENOTYPES, SMALL, seeds=(3, 4, 5))
    for result, reference in zip(again, results, strict=True):
        assert torch.equal(result.scores, reference.scores)
        assert result.curves == reference.curves


def test_one_genotype_serves_all_seeds():
    first, second = nas.retrain(*noise(), GENOTYPES[0], SMALL, seeds=(0, 1))
    assert first.genotype == second.genotype == GENOTYPES[0]
    assert not torch.equal(first.scores, second.scores)


def test_the_test_split_decides_nothing(results):
    """Defect 5: the reference code chooses its epoch by the accuracy on the test set."""
    features, labels, split = noise()
    test = torch.tensor([name == "test" for name in split])
    for x in features.values():
        x[test] = 100.0 * torch.randn_like(x[test])
    labels[test] = 1
    for result, reference in zip(
        nas.retrain(features, labels, split, GENOTYPES, SMALL, (3, 4, 5)), results, strict=True
    ):
        assert result.best_epoch == reference.best_epoch
        assert result.curves == reference.curves
        assert torch.equal(result.scores[~test], reference.scores[~test])
        assert not torch.equal(result.scores[test], reference.scores[test])


def test_the_best_epoch_of_every_run_is_kept_and_patience_ends_it(results):
    _, labels, split = noise()
    val = torch.tensor([name == "val" for name in split])
    for result in results:
        reached = [(row["val_auc"], -row["val_loss"]) for row in result.curves]
        assert result.best_epoch == reached.index(max(reached))
        auc = roc_auc_score(labels[val], result.scores[val])
        assert auc == pytest.approx(result.curves[result.best_epoch]["val_auc"])
        assert len(result.curves) in (SMALL.epochs, result.best_epoch + SMALL.patience + 1)
    patient = SMALL.model_copy(update={"patience": 1, "epochs": 30})
    assert all(len(r.curves) < 30 for r in nas.retrain(*noise(), GENOTYPES, patient, seeds=(3, 4, 5)))


def test_it_learns_what_only_two_layers_together_tell():
    features, labels, split = planted(windows=400)
    config = nas.RetrainConfig(channels=16, epochs=15)
    result = nas.retrain(features, labels, split, genotype(VISUAL, AUDIO, "ConcatFC", "LinearGLU"), config)[0]
    test = torch.tensor([name == "test" for name in split])
    assert roc_auc_score(labels[test], result.scores[test]) > 0.95
    assert result.curves[-1]["train_loss"] < 0.2


def test_progress_is_called_once_per_epoch():
    calls = []
    nas.retrain(*noise(), GENOTYPES[0], SMALL, seeds=(0,), progress=calls.append)
    assert [call["epoch"] for call in calls] == list(range(1, len(calls) + 1))
    assert calls[0]["stage"] == "retrain"


@pytest.mark.parametrize(
    ("genotypes", "seeds", "message"),
    [
        (GENOTYPES, (0, 1), "genotypes has 3 entries for 2 seeds; allowed: 1 or 2"),
        (genotype("visual/l0", "audio/x", "Sum", "Sum"), (0,), r"genotypes\[0\] reads \['audio/x'\]; allowed: "),
        ([GENOTYPES[0], Genotype(cells=GENOTYPES[0].cells[:1])], (0, 1), r"genotypes\[1\] has cells of \[2\] steps"),
    ],
)
def test_genotypes_that_do_not_fit_are_refused(genotypes, seeds, message):
    with pytest.raises(ValueError, match=message):
        nas.retrain(*noise(), genotypes, SMALL, seeds=seeds)


def test_equal_views_give_what_one_view_gives(results):
    again = nas.retrain(*with_views(noise(), 3), GENOTYPES, SMALL, seeds=(3, 4, 5))
    for result, reference in zip(again, results, strict=True):
        assert result.curves == reference.curves
        assert torch.equal(result.scores, reference.scores)


@pytest.mark.parametrize("run", [0, 2])
def test_training_reads_other_views_of_train_rows_and_scores_view_0(results, run):
    features, labels, split = with_views(noise(), 3, strength=1.0)
    together = nas.retrain(features, labels, split, GENOTYPES, SMALL, seeds=(3, 4, 5))
    other = torch.tensor([name != "train" for name in split])
    for x in features.values():
        x[1:, other] = float("nan")
    alone = nas.retrain(features, labels, split, GENOTYPES[run], SMALL, seeds=(3 + run,))[0]
    torch.testing.assert_close(alone.scores, together[run].scores, rtol=0, atol=1e-5)
    assert alone.best_epoch == together[run].best_epoch
    assert alone.curves[0]["train_loss"] != pytest.approx(results[run].curves[0]["train_loss"], rel=1e-3)
    first = {name: x[0] for name, x in features.items()}
    torch.testing.assert_close(alone.network.predict(first), alone.scores, rtol=1e-6, atol=1e-6)


def test_runs_that_have_stopped_leave_and_change_nothing_for_the_others():
    genotypes = [*GENOTYPES, *GENOTYPES]
    config = SMALL.model_copy(update={"patience": 1, "epochs": 12})
    present: list[int] = []
    together = nas.retrain(
        *noise(), genotypes, config, seeds=(5,) * 6, progress=lambda call: present.append(len(call["runs"]))
    )
    assert present[0] == 6
    assert present[-1] < 6
    for genotype, result in zip(genotypes, together, strict=True):
        (alone,) = nas.retrain(*noise(), genotype, config, seeds=(5,))
        torch.testing.assert_close(result.scores, alone.scores, rtol=0, atol=1e-5)
        assert result.best_epoch == alone.best_epoch
        assert len(result.curves) == len(alone.curves)
