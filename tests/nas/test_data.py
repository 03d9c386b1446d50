"""What `search` and `retrain` refuse, and minibatches."""

import math

import numpy as np
import pytest
import torch

import nas
from nas.data import Minibatches, losses, prepare
from nas.random import Streams

from .synthetic import HERE, noise, with_views

TINY = nas.SearchConfig(channels=4, epochs=1, warmup_epochs=0, cells=1, steps=1, min_steps_per_epoch=1)


def with_feature(name, value):
    features, labels, split = noise()
    return {**features, name: value}, labels, split


def with_labels(value):
    features, _, split = noise()
    return features, value, split


def with_split(value):
    features, labels, _ = noise()
    return features, labels, value


def with_value(value):
    features, labels, split = noise()
    features["audio/l1"][3, 2, 1] = value
    return features, labels, split


def with_nan_in_a_view():
    features, labels, split = with_views(noise(), 3)
    features["audio/l1"][2, 3, 2, 1] = math.nan
    return features, labels, split


def run_search(*inputs):
    nas.search(*inputs, TINY)


def run_retrain(*inputs):
    cell = nas.Cell(x="visual/l0", y="audio/l0", steps=(nas.Step(x="x", y="y", operation="Sum"),))
    nas.retrain(*inputs, nas.Genotype(cells=(cell,)), nas.RetrainConfig(channels=4, epochs=1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (with_feature("l9", torch.zeros(48, 4, 5)), r"'l9'; allowed: 'visual/NAME' or 'audio/NAME'"),
        (with_feature("video/l9", torch.zeros(48, 4, 5)), "'video/l9'"),
        (with_feature("audio/l9", torch.zeros(48, 5)), r"audio/l9.* has shape \(48, 5\); allowed: \(N, L, C_in\)"),
        (with_feature("audio/l9", torch.zeros(47, 4, 5)), "audio/l9.* has 47 windows N; allowed: the 48"),
        (with_feature("audio/l9", torch.zeros(48, 3, 5)), "audio/l9.* has 3 positions L; allowed: the 4"),
        (with_feature("audio/l9", torch.zeros(1, 2, 48, 4, 5)), r"audio/l9.*; allowed: .* or \(V, N, L, C_in\)"),
        (with_feature("audio/l9", torch.zeros(0, 48, 4, 5)), "audio/l9.* none of them 0"),
        (with_feature("audio/l9", torch.zeros(3, 48, 4, 5)), "audio/l9.* has 3 views V; allowed: the 1 of .*visual/l0"),
        (with_feature("audio/l9", torch.zeros(1, 48, 3, 5)), "audio/l9.* has 3 positions L; allowed: the 4"),
        (with_feature("audio/l9", torch.zeros(48, 4, 5).long()), "int64; allowed: .*float16 or float32"),
        (with_feature("audio/l9", np.zeros((48, 4, 5))), "ndarray; allowed: a torch tensor"),
        (({"visual/a": torch.zeros(4, 2, 2)}, [0, 1, 0, 1], ["train"] * 2 + ["val"] * 2), "at least two"),
        (with_labels([0, 1] * 20), r"labels has shape \(40,\); allowed: \(48,\)"),
        (with_labels([0, 2] * 24), r"labels holds 2; allowed: 0 \(real\) and 1 \(fake\)"),
        (with_labels([0] * 24 + [0, 1] * 12), r"'train' holds only labels \[0\]; allowed: both"),
        (with_labels([0, 1] * 12 + [1] * 24), r"'val' holds only labels \[1\]"),
        (with_split(["train"] * 24 + ["test"] * 24), "no 'val' rows"),
        (with_split(["train"] * 24 + ["dev"] * 24), "'dev'; allowed: train, val, test"),
        (with_split(["train"] * 24), r"split has length 24; allowed: \(48,\) of train, val, test"),
        (with_value(math.nan), "audio/l1.* not finite, first in row 3$"),
        (with_value(-math.inf), "audio/l1.* not finite, first in row 3$"),
        (with_nan_in_a_view(), "audio/l1.* not finite, first in row 3 of view 2$"),
    ],
)
@pytest.mark.parametrize("stage", [run_search, run_retrain])
def test_wrong_inputs_are_refused_by_name_and_value(stage, inputs, message):
    with pytest.raises(ValueError, match=message):
        stage(*inputs)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="lambda"):
        nas.SearchConfig(**{"lambda": 10})


def test_lists_arrays_and_half_precision_give_what_tensors_give():
    features, labels, split = noise()
    half = {name: x.half() for name, x in features.items()}
    reference = nas.search({name: x.float() for name, x in half.items()}, labels, split, TINY)[0]
    read_only = labels.numpy()
    read_only.setflags(write=False)
    for given in (labels.tolist(), labels.numpy(), read_only):
        result = nas.search(half, given, np.array(split), TINY)[0]
        assert result.genotype == reference.genotype
        assert result.curves == reference.curves


@pytest.mark.parametrize("views", [1, 3])
def test_features_are_used_where_they_lie(views):
    features, labels, split = noise() if views == 1 else with_views(noise(), views)
    data = prepare(features, labels, split, None, reads="all")
    assert all(data.features[name].data_ptr() == x.data_ptr() for name, x in features.items())
    turned = {name: x.mT.contiguous().mT for name, x in features.items()}
    again = prepare(turned, labels, split, None, reads="all")
    assert all(torch.equal(again.features[name], data.features[name]) for name in features)


def test_minibatches_are_full_cover_every_row_once_a_pass_and_differ_between_runs():
    rows = torch.arange(100, 110)
    batches = Minibatches(rows, 4, Streams((0, 1), "train batches", HERE))
    drawn = torch.cat([batches.next() for _ in range(5)], dim=1)
    assert drawn.shape == (2, 20)
    for run in drawn:
        assert sorted(run[:10].tolist()) == rows.tolist()
        assert sorted(run[10:].tolist()) == rows.tolist()
    assert drawn[0].tolist() != drawn[1].tolist()


def test_minibatches_are_never_larger_than_the_split():
    batches = Minibatches(torch.arange(3), 64, Streams((0,), "train batches", HERE))
    assert sorted(batches.next()[0].tolist()) == [0, 1, 2]


def test_every_row_is_read_in_its_view_in_all_layers():
    V, N, B = 3, 48, 10
    cell = torch.arange(V * N, dtype=torch.float32).view(V, N, 1, 1)
    _, labels, split = noise()
    data = prepare(
        {"visual/a": cell.repeat(1, 1, 4, 5), "audio/b": cell.repeat(1, 1, 4, 7)}, labels, split, None, reads="all"
    )
    assert (data.views, data.length, data.in_channels) == (V, 4, {"visual/a": 5, "audio/b": 7})
    source = torch.Generator().manual_seed(0)
    rows, views = (torch.randint(end, (2, B), generator=source) for end in (N, V))
    for name, channels in data.in_channels.items():
        drawn = data.gather(rows, [name], views)[name]
        assert drawn.shape == (2, B, 4, channels)
        assert torch.equal(drawn, (views * N + rows).float()[..., None, None].expand_as(drawn))
        assert torch.equal(data.gather(rows, [name])[name][..., 0, 0], rows.float())


def test_views_are_equally_likely_and_nothing_is_drawn_where_there_is_one():
    rows = torch.zeros(2, 4000, dtype=torch.long)
    streams = Streams((0, 1), "train views", HERE)
    before = streams.keys.clone()
    assert prepare(*noise(), None, reads="all").draw_views(rows, streams) is None
    assert torch.equal(streams.keys, before)
    data = prepare(*with_views(noise(), 4), None, reads="all")
    first, second = data.draw_views(rows, streams), data.draw_views(rows, streams)
    assert first.shape == (2, 4000)
    for run in (*first, *second):
        shares = torch.bincount(run, minlength=4) / 4000
        torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.03, rtol=0)
    assert (first != second).float().mean() > 0.7
    assert (first[0] != first[1]).float().mean() > 0.7


def test_class_weights_give_both_classes_the_same_total_weight_in_train():
    features, _, split = noise()
    labels = torch.tensor([0] * 3 + [1] * 21 + [0, 1] * 12)
    data = prepare(features, labels, split, None, reads="all")
    weights = data.class_weights(balanced=True)
    assert weights.tolist() == pytest.approx([24 / 6, 24 / 42])
    assert data.class_weights(balanced=False).tolist() == [1.0, 1.0]
    logits = torch.zeros(1, 24, 2)
    assert losses(logits, labels[:24], weights).item() == pytest.approx(np.log(2))
