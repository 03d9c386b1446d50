"""The search through its public interface: isolation of splits and runs, curves, loud failure."""

import dataclasses

import pytest
import torch

import nas
from nas.captured import Captured
from nas.choices import ArchitectureParameters, annealed
from nas.cost import CostShare
from nas.data import Dataset, losses, prepare
from nas.random import Streams
from nas.scoring import shared_scores, val_logits
from nas.searching import Search
from nas.space import Space

from .costs import compact_cost
from .mixes import fixed_mix
from .synthetic import HERE, noise, with_views

SMALL = nas.SearchConfig(
    channels=8, epochs=3, warmup_epochs=1, batch_size=8, min_steps_per_epoch=2, samples=2, derive="argmax"
)


@pytest.fixture(scope="module")
def results():
    return nas.search(*noise(), SMALL, seeds=(3, 4, 5))


def test_every_seed_gives_a_result_with_one_row_per_epoch(results):
    assert [result.seed for result in results] == [3, 4, 5]
    for result in results:
        assert [row["epoch"] for row in result.curves] == [0, 1, 2]
        assert result.curves[0]["arch_grad_norm"] is None
        for row in result.curves[1:]:
            assert row["arch_grad_norm"] > 1e-8
        for row in result.curves:
            assert 0.0 <= row["val_auc"] <= 1.0
            assert row["train_loss"] > 0 and row["val_loss"] > 0  # noqa: PT018 - one property, two splits
            for kind in ("cells", "steps", "operations"):
                assert 0.0 <= row[f"entropy_{kind}"] <= 1.0
        assert len(result.history) == 3
        assert all(len(cells) == SMALL.cells for cells in result.history)
        assert result.history[0] != result.history[1] != result.history[2] == result.probabilities


def test_the_same_seed_gives_the_same_search(results):
    again = nas.search(*noise(), SMALL, seeds=(3, 4, 5))
    assert [dataclasses.asdict(r) for r in again] == [dataclasses.asdict(r) for r in results]
    assert results[0].curves != results[1].curves


@pytest.mark.parametrize("space", ["slots", "bmnas"])
def test_a_run_does_not_depend_on_the_runs_beside_it(space):
    config = SMALL.model_copy(update={"space": space})
    together = nas.search(*noise(), config, seeds=(3, 4, 5))
    alone = nas.search(*noise(), config, seeds=(4,))[0]
    assert alone.genotype == together[1].genotype
    for row, beside in zip(alone.curves, together[1].curves, strict=True):
        assert row == pytest.approx(beside, abs=1e-5)


MIXED = [
    SMALL.model_copy(update=changes)
    for changes in (
        {"estimator": "gumbel_rao", "samples": 3, "temperature": 0.5},
        {},
        {"estimator": "softmax", "arch_lr": 0.02, "arch_weight_decay": 0.1},
        {"temperature": 9.0, "weight_lr": 1e-2, "weight_lr_min": 1e-3, "weight_decay": 0.1},
        {"estimator": "gumbel", "samples": 4},
    )
]


def test_a_run_does_not_depend_on_the_settings_of_the_runs_beside_it():
    seeds = (7, 8, 9, 7, 7)
    together = nas.search(*noise(), MIXED, seeds)
    for config, seed, beside in zip(MIXED, seeds, together, strict=True):
        alone = nas.search(*noise(), config, (seed,))[0]
        assert alone.genotype == beside.genotype
        for row, other in zip(alone.curves, beside.curves, strict=True):
            assert row == pytest.approx(other, abs=1e-5)
    assert len({str(result.curves) for result in together}) == len(MIXED)


def test_runs_that_cannot_share_a_batch_are_refused_and_told_by_their_key():
    other = SMALL.model_copy(update={"cells": 1})
    with pytest.raises(ValueError, match=r"configs differ in cells: 2, 1; .*only arch_beta.*nas\.batch_key"):
        nas.search(*noise(), [SMALL, other], (0, 1))
    with pytest.raises(ValueError, match="configs has 1 entries for 2 seeds"):
        nas.search(*noise(), [SMALL], (0, 1))
    assert len({nas.batch_key(config) for config in MIXED}) == 1
    assert nas.batch_key(other) != nas.batch_key(SMALL)


def test_a_search_on_one_modality_must_be_asked_for():
    features, labels, split = noise()
    pictures = {name: x for name, x in features.items() if name.startswith("visual/")}
    with pytest.raises(
        ValueError, match=r"features has no audio layer, only \['visual/l0', 'visual/l1'\]; .*`modality`"
    ):
        nas.search(pictures, labels, split, SMALL)
    asked = SMALL.model_copy(update={"modality": "visual"})
    alone = nas.search(pictures, labels, split, asked)[0]
    assert all(name.startswith("visual/") for name in alone.genotype.layers())
    assert dataclasses.asdict(nas.search(features, labels, split, asked)[0]) == dataclasses.asdict(alone)
    assert not any("visual" in text for text in alone.warnings)


def test_a_search_over_some_operations_uses_no_other():
    config = SMALL.model_copy(update={"operations": ("ConcatFC", "Sum")})
    for result in nas.search(*noise(), config, (0, 1, 2)):
        assert {step.operation for cell in result.genotype.cells for step in cell.steps} <= {"ConcatFC", "Sum"}
    with pytest.raises(ValueError, match=r"operations is \['Add'\]; allowed: Sum, .*each once"):
        nas.SearchConfig(operations=("Add",))


def test_a_schedule_needs_an_end_and_an_end_a_schedule():
    for changes in ({"temperature_schedule": "cosine"}, {"temperature_end": 0.5}):
        with pytest.raises(ValueError, match="allowed: constant without an end, cosine or exponential with one"):
            nas.SearchConfig(**changes)


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 5.05), ("exponential", 1.0)])
def test_a_temperature_follows_its_schedule(schedule, middle):
    config = nas.SearchConfig(temperature=10.0, temperature_end=0.1, temperature_schedule=schedule)
    values = [annealed(config, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert values == sorted(values, reverse=True)
    assert [values[0], values[2], values[-1]] == pytest.approx([10.0, middle, 0.1])
    assert annealed(nas.SearchConfig(temperature=4.0), 0.7) == 4.0


def gaps(changes, seeds=(0,)):
    """How far the choices are moved by a setting: the spread of the final choice probabilities."""
    config = SMALL.model_copy(update={"epochs": 6, "arch_lr": 0.2, **changes})
    results = nas.search(*noise(), config, seeds)
    return sum(1.0 - result.curves[-1]["entropy_operations"] for result in results)


def test_a_schedule_changes_the_search_from_its_first_moved_epoch_on():
    changed = {"temperature": 5.0, "temperature_schedule": "exponential", "temperature_end": 0.2}
    assert gaps(changed) != gaps({"temperature": 5.0})


def test_a_single_operation_is_no_choice_and_no_collapse():
    """Its entropy is 0 of log 1, and a space of nothing but Sum has not collapsed to Sum."""
    config = SMALL.model_copy(update={"operations": ("Sum",), "entropy_weight": 0.1})
    result = nas.search(*noise(), config)[0]
    assert [row["entropy_operations"] for row in result.curves] == [0.0] * 3
    assert result.curves[-1]["arch_grad_norm"] > 1e-8
    assert not any("Sum" in text for text in result.warnings)


def test_entropy_weight_settles_the_choices_or_keeps_them_open():
    assert gaps({"entropy_weight": -3.0}) < 0.5 * gaps({"entropy_weight": 3.0})


def test_cost_weight_finds_cheaper_architectures():
    """On noise nothing but the cost decides: operations without weights, and narrow layers."""
    data = prepare(*noise(), None, reads="train_val")
    costs = []
    for weight in (0.0, 30.0):
        config = SMALL.model_copy(update={"epochs": 12, "arch_lr": 0.2, "cost_weight": weight})
        results = nas.search(*noise(), config, (0, 1, 2))
        found = [compact_cost(r.genotype, data.in_channels, channels=8, length=data.length) for r in results]
        costs.append([cost.parameters for cost in found])
    assert max(costs[1]) < min(costs[0])


@pytest.mark.parametrize("kind", ["parameters", "macs"])
def test_the_cost_of_a_hard_sample_is_that_of_its_genotype(kind):
    """Up to what all architectures of the space share."""
    widths = {"visual/l0": 5, "visual/l1": 7, "audio/l0": 6}
    space = Space(tuple(widths), 2, 2)
    share = CostShare(space, widths, channels=8, length=4, kind=kind, device=HERE)
    architecture = ArchitectureParameters(space, range(20))
    genotypes = architecture.derive(Streams(range(20), "candidates", HERE))
    assert len(set(genotypes)) > 15
    shares = share(fixed_mix(space, genotypes, HERE))
    costs = [getattr(compact_cost(genotype, widths, channels=8, length=4), kind) for genotype in genotypes]
    differences = torch.tensor([cost - costs[0] for cost in costs]).float()
    torch.testing.assert_close((shares - shares[0]) * share.whole, differences, atol=0.01, rtol=1e-4)


def test_a_single_level_search_keeps_runs_apart(results):
    config = SMALL.model_copy(update={"level": "single"})
    together = nas.search(*noise(), config, (3, 4, 5))
    assert [r.curves for r in together] != [r.curves for r in results]
    alone = nas.search(*noise(), config, (4,))[0]
    for row, beside in zip(alone.curves, together[1].curves, strict=True):
        assert row == pytest.approx(beside, abs=1e-4)


def test_a_single_level_search_trains_on_no_validation_row():
    features, labels, split = noise()
    config = SMALL.model_copy(update={"level": "single"})
    reference = nas.search(features, labels, split, config)[0]
    for x in features.values():
        x[[i for i, name in enumerate(split) if name == "val"]] *= 2.0
    assert nas.search(features, labels, split, config)[0].probabilities == reference.probabilities
    assert nas.search(features, labels, split, SMALL)[0].probabilities != nas.search(*noise(), SMALL)[0].probabilities


def test_best_of_finds_what_scores_higher_on_val_than_the_most_probable():
    """It never scores worse by the shared weights: the most probable genotype is among those compared."""
    features, labels, split = noise(windows=96)
    config = SMALL.model_copy(update={"derive": "best_of", "candidates": 12})
    seeds = (3, 4, 5)
    plain = nas.search(features, labels, split, SMALL, seeds, keep_weights=True)
    best = nas.search(features, labels, split, config, seeds)
    for argmax, chosen in zip(plain, best, strict=True):
        scores = shared_scores(features, labels, split, [argmax.genotype, chosen.genotype], argmax.weights).tolist()
        assert scores == [argmax.score, chosen.score]
    assert sum(chosen.score > argmax.score + 0.02 for argmax, chosen in zip(plain, best, strict=True)) >= 2
    assert all(chosen.score >= argmax.score for argmax, chosen in zip(plain, best, strict=True))


def test_one_evaluation_serves_the_curves_and_the_score_of_what_is_most_probable(results):
    for result in results:
        assert result.score == result.curves[-1]["val_auc"]


def test_the_published_procedure_does_not_move_the_choices_and_only_its_name_excuses_that():
    """Defect 1: lambda = 10, M = 15. The same setting with a real straight-through gradient moves them."""
    config = SMALL.model_copy(update={"temperature": 10.0, "samples": 15, "arch_weight_decay": 0.0, "epochs": 5})
    published = nas.search(*noise(), config.model_copy(update={"estimator": "published"}), (3,))[0]
    assert 0.0 <= published.curves[-1]["arch_grad_norm"] < 1e-10
    start = published.history[0]  # after the warm-up
    for cell, before in zip(published.probabilities, start, strict=True):
        assert cell["x"] == pytest.approx(before["x"], abs=1e-6)
    assert nas.search(*noise(), config, (3,))[0].probabilities != start
    both = [config.model_copy(update=u) for u in ({"estimator": "published"}, {"temperature": 1e12})]
    assert [bool(result.failed) for result in nas.search(*noise(), both, (3, 4))] == [False, True]


def test_a_search_that_only_cost_drives_is_warned_about():
    config = SMALL.model_copy(update={"epochs": 20, "arch_lr": 0.5, "cost_weight": 100.0})
    result = nas.search(*noise(), config, (6,))[0]
    assert result.curves[-1]["share_sum"] > 0.9
    assert any(text.startswith("seed 6: ") and "Sum" in text for text in result.warnings)


def test_rows_of_the_test_split_are_never_read(results):
    features, labels, split = noise()
    test = torch.tensor([name == "test" for name in split])
    for x in features.values():
        x[test] = float("nan")
    labels[test] = 0
    for result, reference in zip(nas.search(features, labels, split, SMALL, (3, 4, 5)), results, strict=True):
        assert result.genotype == reference.genotype
        assert result.curves == reference.curves
        assert result.probabilities == reference.probabilities


def test_both_other_splits_are_read(results):
    for part in ("train", "val"):
        features, labels, split = noise()
        rows = torch.tensor([name == part for name in split])
        features["visual/l0"][rows] *= -3.0
        assert nas.search(features, labels, split, SMALL, (3,))[0].curves != results[0].curves


def test_one_epoch_moves_every_weight_and_every_choice():
    """Defect 3: the reference code leaves the reshape layers out of the optimiser, at their random start."""
    data = prepare(*noise(), None, reads="train_val")
    config = SMALL.model_copy(update={"warmup_epochs": 0, "samples": 15, "batch_size": 24})
    state = Search(data, [config], (0,))
    before = {name: p.detach().clone() for name, p in state.supernet.named_parameters()}
    state.epoch(0)
    still = [name for name, p in state.supernet.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_a_step_moves_the_weights_and_the_choices_only_when_searching():
    data = prepare(*noise(), None, reads="train_val")
    state = Search(data, [SMALL] * 2, (3, 4))

    def held():
        supernet = state.supernet
        return [[p.detach().clone() for p in of.parameters()] for of in (supernet.fusion, supernet.architecture)]

    for searching in (False, True):
        before = held()
        loss, norm = state.step(searching=searching)
        assert loss.shape == norm.shape == (2,)
        assert (norm > 0).all() == searching
        moved = [
            any(not torch.equal(a, b) for a, b in zip(*sides, strict=True))
            for sides in zip(before, held(), strict=True)
        ]
        assert moved == [True, searching]


def test_the_architecture_learns_and_the_warm_up_leaves_it_alone():
    config = SMALL.model_copy(update={"epochs": 6, "warmup_epochs": 2, "arch_lr": 0.3})
    result = nas.search(*noise(), config)[0]
    assert result.curves[1]["entropy_cells"] == pytest.approx(1.0, abs=1e-4)
    assert result.history[0] == result.history[1] != result.history[2]
    assert result.curves[-1]["entropy_cells"] < 0.99


@pytest.mark.parametrize("estimator", ["softmax", "gumbel", "gumbel_rao"])
def test_every_estimator_searches(estimator):
    config = SMALL.model_copy(update={"estimator": estimator})
    assert nas.search(*noise(), config)[0].curves[-1]["arch_grad_norm"] > 1e-8


def test_the_weights_of_a_run_are_kept_where_asked_for(results):
    """They score a genotype as the search itself does."""
    features, labels, split = noise()
    kept = nas.search(features, labels, split, SMALL, seeds=(3, 4, 5), keep_weights=True)[1]
    assert results[1].weights is None
    assert shared_scores(features, labels, split, [kept.genotype], kept.weights).item() == results[1].score
    data = prepare(features, labels, split, None, reads="train_val")
    logits = val_logits(data, [kept.genotype], kept.weights)
    loss = losses(logits, data.labels[data.val], data.class_weights(balanced=True))
    assert loss.item() == results[1].curves[-1]["val_loss"]


def test_progress_is_called_once_per_epoch():
    calls = []
    nas.search(*noise(), SMALL, seeds=(0, 1), progress=calls.append)
    assert [call["epoch"] for call in calls] == [1, 2, 3]
    assert all(call["stage"] == "search" and call["epochs"] == 3 and len(call["runs"]) == 2 for call in calls)


def test_validation_rows_are_scored_all_together_and_without_dropout():
    """Defect 6: the reference code scores the batch that it has just trained on, with dropout.

    While only weights train, validation rows do nothing but get scored: with twice every row, all scores are the same.
    """
    features, labels, split = noise(windows=64)
    config = SMALL.model_copy(update={"epochs": 2, "warmup_epochs": 1, "batch_size": 4, "dropout": 0.5})
    rows = list(range(64))
    twice = rows + [i for i, name in enumerate(split) if name == "val"]
    found = [
        nas.search({n: x[of] for n, x in features.items()}, labels[of], [split[i] for i in of], config)[0].curves[0]
        for of in (rows, twice)
    ]
    assert found[0]["val_loss"] == pytest.approx(found[1]["val_loss"], rel=1e-5)
    assert found[0]["val_auc"] == pytest.approx(found[1]["val_auc"])


@pytest.fixture(scope="module")
def viewed():
    return nas.search(*with_views(noise(), 3, strength=1.0), SMALL, seeds=(3, 4, 5))


def test_equal_views_give_what_one_view_gives(results):
    for result, reference in zip(nas.search(*with_views(noise(), 3), SMALL, (3, 4, 5)), results, strict=True):
        assert dataclasses.asdict(result) == dataclasses.asdict(reference)


def test_only_train_rows_are_read_in_other_views(viewed, results):
    """Architecture steps, losses and AUC of the validation split come from view 0."""
    features, labels, split = with_views(noise(), 3, strength=1.0)
    other = torch.tensor([name != "train" for name in split])
    for x in features.values():
        x[1:, other] = float("nan")
    poisoned = nas.search(features, labels, split, SMALL, (3, 4, 5))
    assert [dataclasses.asdict(r) for r in poisoned] == [dataclasses.asdict(r) for r in viewed]
    assert [r.curves for r in viewed] != [r.curves for r in results]


def test_a_run_draws_its_own_views(viewed):
    alone = nas.search(*with_views(noise(), 3, strength=1.0), SMALL, seeds=(4,))[0]
    assert alone.genotype == viewed[1].genotype
    for row, beside in zip(alone.curves, viewed[1].curves, strict=True):
        assert row == pytest.approx(beside, abs=1e-5)


def test_weight_steps_read_every_view_and_nothing_else_reads_any(monkeypatch):
    """Each window's view changes from pass to pass and from run to run."""
    seen, without = [], 0

    def gather(self, rows, layers, views=None):
        nonlocal without
        seen.append((rows, views)) if views is not None else (without := without + 1)
        return original(self, rows, layers, views)

    original = Dataset.gather
    monkeypatch.setattr(Dataset, "gather", gather)
    monkeypatch.setattr("nas.searching.Captured", lambda _: Captured(torch.device("cpu")))  # a graph calls nothing
    config = SMALL.model_copy(update={"epochs": 40, "warmup_epochs": 39, "batch_size": 24})
    nas.search(*with_views(noise(), 3), config, seeds=(3, 4))
    assert len(seen) == 80
    assert without == 2 + 40  # two architecture steps, and an evaluation after every epoch
    drawn = torch.stack([torch.zeros_like(rows).scatter(1, rows, views) for rows, views in seen])  # (passes, R, rows)
    shares = torch.stack([(drawn == view).float().mean(0) for view in range(3)])
    assert (shares > 0.1).all()
    torch.testing.assert_close(shares.mean((1, 2)), torch.full((3,), 1 / 3), atol=0.04, rtol=0)
    assert (drawn[0] != drawn[1]).any(1).all()
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
