"""What every door of nas refuses, each alike: what was given, what is allowed, and the way out."""

import numpy as np
import pandas as pd
import pytest
import torch

import nas
from nas.baselines import train_design
from nas.scoring import shared_scores

from .synthetic import noise

SEARCH = nas.SearchConfig(
    channels=4, epochs=1, warmup_epochs=0, cells=1, steps=1, min_steps_per_epoch=1, samples=1, derive="argmax"
)
TRAINING = nas.RetrainConfig(channels=4, epochs=1, min_steps_per_epoch=1)
GENOTYPE = nas.Genotype(
    cells=(nas.Cell(x="visual/l0", y="audio/l0", steps=(nas.Step(x="x", y="y", operation="Sum"),)),)
)


@pytest.fixture(scope="module")
def weights():
    return nas.search(*noise(), SEARCH, keep_weights=True)[0].weights


def doors(weights):
    """Return {door: call}, each with arguments that change what it is given."""

    def search(data, *, seeds=(0,), device=None, config=SEARCH):
        return nas.search(*data, of_device(config, device), seeds)

    def retrain(data, *, seeds=(0,), device=None, config=TRAINING, genotypes=GENOTYPE):
        return nas.retrain(*data, genotypes, of_device(config, device), seeds)

    def design(data, *, seeds=(0,), device=None, config=TRAINING):
        return train_design(*data, "GMU", of_device(config, device), seeds)

    def shared(data, *, device=None, genotypes=(GENOTYPE,), weights=weights):
        return shared_scores(*data, genotypes, weights, device=device)

    return {"search": search, "retrain": retrain, "train_design": design, "shared_scores": shared}


def of_device(config, device):
    return config.model_copy(update={"device": device}) if device else config


def given(features=None, labels=None, split=None):
    of_noise = noise()
    return tuple(of_noise[i] if value is None else value for i, value in enumerate((features, labels, split)))


TWO_CELLS = nas.Genotype(cells=(*GENOTYPE.cells, nas.Cell(x="cell1", y="audio/l0", steps=GENOTYPE.cells[0].steps)))
NO_SPLIT = (*noise()[:2], None)
NO_LABELS = (noise()[0], None, noise()[2])
ALL, RUNS, CONFIGURED = None, ("search", "retrain", "train_design"), ("search", "retrain", "train_design")
JUDGING = ("retrain", "shared_scores")

CASES = [
    (ALL, {"data": given(torch.zeros(48, 4, 5))}, r"features is a Tensor; allowed: a dict .*'visual/NAME'"),
    (ALL, {"data": given(np.zeros((48, 4, 5)))}, r"features is a ndarray; allowed: a dict "),
    (
        ALL,
        {"data": given({1: torch.zeros(48, 4, 5), **noise()[0]})},
        "features has the layer 1; allowed: 'visual/NAME'",
    ),
    (ALL, {"data": given(labels=["real", "fake"] * 24)}, r"labels holds 'real'; allowed: 0 \(real\) and 1 \(fake\)"),
    (ALL, {"data": given(labels=np.array(["real", "fake"] * 24))}, "labels holds 'real'; allowed: "),
    (ALL, {"data": given(labels=[[0, 1], [1]])}, "labels holds .*; allowed: 0"),
    (ALL, {"data": NO_LABELS}, r"labels is None; allowed: \(48,\) of 0 \(real\) and 1 \(fake\)"),
    (ALL, {"data": NO_SPLIT}, r"split is None; allowed: \(48,\) of train, val, test"),
    (ALL, {"data": given(split="train")}, r"split is 'train'; allowed: \(48,\) of train, val, test"),
    (ALL, {"data": given(), "device": "cude"}, "device is 'cude'; allowed: 'cpu', 'cuda'"),
    (RUNS, {"data": given(), "seeds": 3}, r"seeds is 3; allowed: .*, as \[3\]"),
    (RUNS, {"data": given(), "seeds": "12"}, "seeds is '12'; allowed: whole numbers, one per run"),
    (RUNS, {"data": given(), "seeds": (1.7,)}, r"seeds\[0\] is 1.7; allowed: whole numbers"),
    (RUNS, {"data": given(), "seeds": ()}, "seeds is empty; allowed: .*at least one"),
    (("search",), {"data": given(), "config": {"epochs": 3}}, r"configs is a dict; allowed: .*nas.SearchConfig\(\*\*"),
    (("search",), {"data": given(), "config": [{}]}, r"configs\[0\] is a dict; allowed: a nas.SearchConfig"),
    (("search",), {"data": given(), "config": TRAINING}, "configs is a RetrainConfig; allowed: a nas.SearchConfig"),
    (("search",), {"data": given(), "config": []}, "configs has 0 entries for 1 seeds"),
    (RUNS[1:], {"data": given(), "config": {"epochs": 3}}, r"config is a dict; allowed: .*nas.RetrainConfig\(\*\*"),
    (RUNS[1:], {"data": given(), "config": SEARCH}, "config is a SearchConfig; allowed: a nas.RetrainConfig"),
    (JUDGING, {"data": given(), "genotypes": []}, "genotypes is empty; allowed: .*nas.Genotype"),
    (
        JUDGING,
        {"data": given(), "genotypes": [{}]},
        r"genotypes\[0\] is a dict; allowed: nas.Genotype, .*model_validate",
    ),
    (JUDGING, {"data": given(), "genotypes": GENOTYPE.to_json()}, "genotypes is a str; allowed: .*nas.Genotype"),
    (
        ("shared_scores",),
        {"data": given(), "genotypes": TWO_CELLS},
        "weights has no 'cells.1.*; allowed: architectures of",
    ),
    (("shared_scores",), {"data": given(), "weights": None}, "weights is None; allowed: .*keep_weights=True"),
]


@pytest.mark.parametrize(
    ("door", "arguments", "message"),
    [
        pytest.param(door, arguments, message, id=f"{door}: {message}")
        for of, arguments, message in CASES
        for door in (of or ("search", "retrain", "train_design", "shared_scores"))
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(door, arguments, message, weights):
    data = arguments["data"]
    with pytest.raises(ValueError, match=message):
        doors(weights)[door](data, **{name: value for name, value in arguments.items() if name != "data"})


def test_what_pandas_and_numpy_give_is_taken_without_a_warning():
    """Labels of a table are an array that may not be written to."""
    features, labels, split = noise()
    table = pd.DataFrame({"label": labels.numpy(), "split": split})
    read_only = table["label"].to_numpy()
    read_only.flags.writeable = False
    reference = nas.search(features, labels, split, SEARCH)[0]
    for of_labels, of_split in ((read_only, list(table["split"])), (table["label"], table["split"])):
        assert nas.search(features, of_labels, of_split, SEARCH, np.array([0]))[0].curves == reference.curves


def test_a_warm_up_that_leaves_no_epoch_to_search_is_refused():
    with pytest.raises(ValueError, match="warmup_epochs is 10 and epochs 10; allowed: fewer epochs of warm-up"):
        nas.SearchConfig(epochs=10)
    with pytest.raises(ValueError, match="warmup_epochs is 2 and epochs 2"):
        nas.search(*noise(), SEARCH.model_copy(update={"epochs": 2, "warmup_epochs": 2}))
