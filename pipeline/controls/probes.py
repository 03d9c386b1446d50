"""Probes: linear and kernel classifiers on pooled layer features, the reference that any fusion network must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from pipeline.statistics.metrics import auc

PENALTIES = tuple(10.0**exponent for exponent in range(-5, 2))
"""C of both probes; the best AUC on val decides."""
SVM_WINDOWS = 10_000
"""The kernel matrix grows with the square of the train windows; of more than this, every n-th is taken."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """One fitted probe: P(fake) of every window (N,), and how many numbers it learnt."""

    scores: Floats
    parameters: int


def probe_sets(layers: Sequence[str]) -> dict[str, list[str]]:
    """{title: layers} to probe: each alone, each modality's, all."""
    sets = {name: [name] for name in layers}
    for modality in ("visual", "audio"):
        of_modality = [name for name in layers if name.startswith(f"{modality}/")]
        if of_modality:
            sets[f"all {modality} layers"] = of_modality
    return sets | {"all layers": list(layers)}


def logistic_regression(features: Mapping[str, Any], labels: NDArray[np.int64], split: Sequence[str]) -> Probe:
    """A logistic regression on layers {name: (N, L, C_in)}, each read as its mean over L."""
    return _best(features, labels, split, _logistic)


def support_vector_machine(features: Mapping[str, Any], labels: NDArray[np.int64], split: Sequence[str]) -> Probe:
    """A support vector machine (RBF kernel) on the same; a decision value of 0 is P = 0.5."""
    return _best(features, labels, split, _svm)


probes: dict[str, Callable[[Mapping[str, Any], NDArray[np.int64], Sequence[str]], Probe]] = {
    "logistic regression": logistic_regression,
    "SVM": support_vector_machine,
}


def stacked(parts: Sequence[Floats], labels: NDArray[np.int64], split: Sequence[str]) -> Floats:
    """P(fake) (N,) of a logistic regression on other networks' scores, fitted on val: they have seen train."""
    x = np.stack([_logit(part) for part in parts], axis=1)
    fit = np.asarray(split) == "val"
    found = LogisticRegression(class_weight="balanced").fit(x[fit], labels[fit])
    scores: Floats = found.predict_proba(x)[:, 1]
    return scores


def _best(features: Mapping[str, Any], labels: NDArray[np.int64], split: Sequence[str], make: MakeCandidate) -> Probe:
    """The probe whose penalty gives the best AUC on val, fitted on train."""
    x = np.concatenate([np.asarray(_pooled(layer).cpu()) for layer in features.values()], axis=1)
    parts = np.asarray(split)
    train, val = np.flatnonzero(parts == "train"), parts == "val"
    tried = []
    for penalty in PENALTIES:
        candidate = make(penalty)
        rows = train[:: -(-len(train) // candidate.most)] if candidate.most else train
        fitted = candidate.pipeline.fit(x[rows], labels[rows])
        tried.append((auc(labels[val], fitted.decision_function(x[val])), fitted))
    best = max(tried, key=lambda pair: pair[0])[1]
    return Probe(expit(best.decision_function(x)), _parameters(best[-1]))


@dataclass(frozen=True)
class _Candidate:
    """most: train windows to fit on at most; 0: all."""

    pipeline: Any
    most: int = 0


MakeCandidate = Callable[[float], _Candidate]


def _logistic(penalty: float) -> _Candidate:
    classifier = LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)
    return _Candidate(make_pipeline(*_standardised(), classifier))


def _svm(penalty: float) -> _Candidate:
    # At a C below 0.01 a kernel SVM has every window as support vector: shifted up by three decades.
    classifier = SVC(C=1000 * penalty, class_weight="balanced", cache_size=500)
    return _Candidate(make_pipeline(*_standardised(), classifier), most=SVM_WINDOWS)


def _pooled(layer: Tensor) -> Tensor:
    """(N, C_in) float32, the mean over L; NaN of a window that lacks the layer, whose features are zeros throughout."""
    lacking = (layer == 0).flatten(1).all(dim=1, keepdim=True)
    return layer.float().mean(dim=-2).masked_fill(lacking, float("nan"))


def _standardised() -> tuple[Any, Any]:
    """What is not there takes no part in mean and variance, and is 0 afterwards: the mean."""
    return StandardScaler(), SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)


def _parameters(classifier: Any) -> int:
    if isinstance(classifier, SVC):
        return int(classifier.support_vectors_.size + classifier.dual_coef_.size + 1)
    return int(classifier.coef_.size + 1)


def _logit(scores: Floats) -> Floats:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    result: Floats = np.log(clipped / (1 - clipped))
    return result
