"""Members: which of the best architectures are left once they were really trained."""

import pytest
import torch

import nas
import nas.training
from nas.data import prepare
from nas.halving import different, halve, trial
from nas.scoring import shared_scores
from nas.space import Space

from .synthetic import AUDIO, VISUAL, noise, planted

SMALL = nas.SearchConfig(
    channels=8, epochs=2, warmup_epochs=1, batch_size=8, min_steps_per_epoch=2, samples=2, candidates=24
)


def pair(x: str, y: str, operation: str = "ConcatFC") -> nas.Genotype:
    return nas.Genotype(cells=(nas.Cell(x=x, y=y, steps=(nas.Step(x="x", y="y", operation=operation),)),))


@pytest.mark.parametrize("members", [1, 3])
def test_a_search_gives_so_many_different_genotypes_the_best_first(members):
    data = noise()
    config = SMALL.model_copy(update={"members": members, "rungs": ()})
    (result,) = nas.search(*data, config, keep_weights=True)
    found = [member.genotype for member in result.members]
    assert len(different(found)) == len(found) == members
    scores = [member.score for member in result.members]
    assert scores == sorted(scores, reverse=True)
    assert shared_scores(*data, found, result.weights).tolist() == scores
    assert (result.genotype, result.score) == (found[0], scores[0])
    assert all(member.trained is None for member in result.members)


def test_more_members_than_are_compared_are_refused():
    for changes in ({"members": 5, "candidates": 4}, {"members": 2, "derive": "argmax"}):
        with pytest.raises(ValueError, match="members is"):
            nas.SearchConfig(**changes)


def test_what_computes_the_same_function_is_one_candidate():
    one, other = pair("visual/l0", "audio/l0", "Sum"), pair("visual/l0", "audio/l1", "Sum")
    (cell,) = one.cells
    swapped = nas.Genotype(cells=(cell.model_copy(update={"steps": (nas.Step(x="y", y="x", operation="Sum"),)}),))
    assert different([one, swapped, other, one]) == [one, other]


def test_what_really_learns_is_left_whatever_place_it_had():
    """The label is the XOR of two signs: of these architectures only the last one can learn it."""
    data = prepare(*planted(), None, reads="train_val")
    candidates = [pair(x, y) for x in ("visual/l0", VISUAL) for y in ("audio/l0", AUDIO)]
    config = SMALL.model_copy(update={"batch_size": 32, "channels": 16, "rungs": (6, 6)})
    (left,) = halve(data, [candidates], config)
    ((best, auc),) = left.items()
    assert best == candidates[-1]
    assert auc > 0.7


def test_half_goes_on_after_each_rung_and_the_rest_costs_nothing_more(monkeypatch):
    data = prepare(*noise(), None, reads="train_val")
    seen = []
    step = nas.training.Training.step

    def counted(self):
        seen.append(len(self.present))
        return step(self)

    monkeypatch.setattr(nas.training.Training, "step", counted)
    config = SMALL.model_copy(update={"rungs": (1, 2, 1), "members": 2})
    candidates = different(Space(tuple(data.features)).sample(30, 0))
    (left,) = halve(data, [candidates], config)
    steps = trial(data, candidates[:1], config).steps
    assert seen == [16] * steps + [8] * 2 * steps + [4] * steps
    assert len(left) == 2
    assert set(left) < set(candidates[:16])


def test_a_run_is_judged_as_alone_whatever_is_judged_beside_it():
    data = prepare(*noise(), None, reads="train_val")
    candidates = different(Space(tuple(data.features)).sample(12, 0))
    config = SMALL.model_copy(update={"rungs": (1, 1), "members": 1})
    runs = [candidates[:4], candidates[2:6], candidates[8:], candidates[:1]]
    together = halve(data, runs, config)
    assert together == [halve(data, [of_run], config)[0] for of_run in runs]
    assert together[-1] == {candidates[0]: None}


def test_a_candidate_that_diverges_is_not_left():
    features, labels, split = noise()
    features["visual/l0"] = features["visual/l0"] * 1e30
    data = prepare(features, labels, split, None, reads="train_val")
    broken, well = pair("visual/l0", "audio/l0"), pair("visual/l1", "audio/l1")
    config = SMALL.model_copy(update={"rungs": (2,), "members": 1})
    assert list(halve(data, [[broken, well]], config)[0]) == [well]


def test_rows_of_the_test_split_play_no_part():
    config = SMALL.model_copy(update={"members": 2, "rungs": (1,)})
    (reference,) = nas.search(*noise(), config)
    assert [member.trained is not None for member in reference.members] == [True, True]
    features, labels, split = noise()
    test = torch.tensor([name == "test" for name in split])
    for x in features.values():
        x[test] += 100
    assert nas.search(features, labels, split, config)[0].members == reference.members


def test_trials_read_the_cells_as_the_final_training_does():
    data = prepare(*noise(), None, reads="train_val")
    for head in ("mean", "flatten"):
        config = SMALL.model_copy(update={"head": head})
        assert trial(data, [pair("visual/l0", "audio/l0")], config).whole.head == head
