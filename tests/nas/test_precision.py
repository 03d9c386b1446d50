"""What a GPU multiplies matrices in: as the config says, while it computes for it, and in whatever it was elsewhere."""

import pytest
import torch

import nas
from nas.baselines import train_design
from nas.functions import multiplying
from nas.searching import Search
from nas.training import Training

from .synthetic import noise

SMALL = {"channels": 4, "epochs": 2, "batch_size": 8}


def now():
    return torch.backends.cuda.matmul.fp32_precision


@pytest.fixture
def seen(monkeypatch):
    """What is set whenever a step of a search or of a training is done."""
    found = []

    def noted(of):
        def step(*given, **named):
            found.append(now())
            return of(*given, **named)

        return step

    for place in (Search, Training):
        monkeypatch.setattr(place, "step", noted(place.step))
    return found


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_searches_trials_trainings_and_designs_multiply_as_their_config_says(seen, precision):
    before = now()
    assert before != "tf32"
    small = SMALL | {"precision": precision}
    search = nas.SearchConfig(**small, warmup_epochs=1, candidates=4, rungs=(1,))
    training = nas.RetrainConfig(**small)
    (result,) = nas.search(*noise(), search)
    nas.retrain(*noise(), result.genotype, training)
    train_design(*noise(), "GMU", training, (0,))
    assert set(seen) == {"tf32" if precision == "tf32" else before}
    assert now() == before


def test_calls_that_overlap_leave_nothing_set():
    """As in two threads, of which the first ends first."""
    before, one, other = now(), multiplying("tf32"), multiplying("tf32")
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert now() == "tf32"
    other.__exit__(None, None, None)
    assert now() == before


def test_what_fails_leaves_nothing_set(seen):
    features, labels, split = noise()
    features = {name: 1e30 * x for name, x in features.items()}
    with pytest.raises(nas.RunError):
        nas.search(features, labels, split, nas.SearchConfig(**SMALL, warmup_epochs=1, precision="tf32"))
    assert "tf32" in seen
    assert now() != "tf32"
