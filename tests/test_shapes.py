"""Shapes in annotations are checked while tests run."""

import pytest
import torch
from jaxtyping import TypeCheckError

import nas
from nas.choices import ESTIMATORS
from nas.data import DataError
from pipeline.backbones import pool


def test_an_estimator_whose_noise_does_not_fit_its_logits_is_found() -> None:
    with pytest.raises(TypeCheckError, match="noise"):
        ESTIMATORS["softmax"](torch.zeros(3, 4), torch.ones(2, 3, 5), 1.0)


def test_a_map_without_time_is_found() -> None:
    assert pool(torch.zeros(2, 3, 4, 5, 5), length=8).numel() == 2 * 3 * 8
    with pytest.raises(TypeCheckError, match="feature_map"):
        pool(torch.zeros(2, 3), length=8)


def test_functions_without_shapes_refuse_by_their_own_errors() -> None:
    with pytest.raises(DataError):
        nas.search({}, [], [], nas.SearchConfig(), seeds=[0])  # type: ignore[arg-type]
