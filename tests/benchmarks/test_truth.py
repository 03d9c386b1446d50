"""Architectures trained on the folds of a protocol, on a small cache: scores of clips, what is kept, what is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nas
from benchmarks import truth
from benchmarks.truth import Cut, Question, cuts_of, truth_of
from pipeline.runs.cache import Source
from tests.pipeline.run_fixture import make_index, make_workspace
from tests.pipeline.small_experiments import Counted, small

QUESTION = Question(cells=1, steps=1, sample=6, seeds=2, searches=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    work = make_workspace(tmp_path_factory.mktemp("work"), make_index())
    return Source.of(work, small(data={"layout": "csv"}))


@pytest.fixture(scope="module")
def cuts(source: Source) -> list[Cut]:
    return list(cuts_of(source, "people", 2))


def test_every_clip_is_tested_once_by_who_saw_nothing_of_its_people(cuts: list[Cut]) -> None:
    assert sum(len(cut.labels) for cut in cuts) == 120
    for cut in cuts:
        assert len(cut.clips) == cut.split.count("test") == 2 * len(cut.labels)  # two windows a clip
        assert cut.clips.max() + 1 == len(cut.labels) == len(cut.people)


def test_folds_of_few_clips_are_left_out(source: Source) -> None:
    assert list(cuts_of(source, "people", 1000)) == []


def test_a_clip_scores_the_mean_of_its_windows(
    source: Source, cuts: list[Cut], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    real, own = nas.retrain, cuts[0].split.count("train")

    def watched(*args: Any, **kwargs: Any) -> list[nas.RetrainResult]:
        results = real(*args, **kwargs)
        heard = any(name.startswith("audio/") for genotype in args[3] for name in genotype.layers())
        assert (args[2].count("train") > own) == heard, "as `bmnas oracle`, from pseudo-fakes, too"
        test = np.array(args[2]) == "test"
        seen.extend(result.scores.double().numpy()[test] for result in results)
        return results

    monkeypatch.setattr(nas, "retrain", watched)
    found = truth_of(source, cuts[0], QUESTION)
    assert found.curves.shape == (6, 2, 2)
    assert found.val.shape == (6, 2)
    expected = {tuple(np.round(scores.reshape(-1, 2).mean(1), 9)) for scores in seen}  # windows stand clip by clip
    assert {tuple(np.round(scores, 9)) for scores in found.scores.reshape(12, -1)} == expected


def test_what_is_finished_is_not_trained_again(
    source: Source, cuts: list[Cut], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = truth_of(source, cuts[1], QUESTION)
    counted = Counted(truth.train_batch)
    monkeypatch.setattr(truth, "train_batch", counted)
    again = truth_of(source, cuts[1], QUESTION)
    assert counted.runs == 0
    assert np.array_equal(again.scores, first.scores)
