"""All metrics of draws of people, beside a loop over scikit-learn. One draw each: `make bench-statistics`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    roc_auc_score,
    roc_curve,
)

from benchmarks.side_by_side import compare, print_figures
from pipeline.statistics.people import Draws, draw_people, drawn_metrics

CLIPS, PEOPLE, DRAWS, LOOPED = 20_000, 500, 10_000, 20


def main() -> None:
    random = np.random.default_rng(0)
    labels, whose = random.integers(2, size=CLIPS), random.integers(PEOPLE, size=CLIPS)
    scores = 1 / (1 + np.exp(-(random.standard_normal(CLIPS) + labels - 0.5)))
    draws = draw_people(whose, draws=DRAWS)
    few = Draws(draws.counts[:LOOPED], draws.member)
    found = compare(
        f"{DRAWS} draws of 14 metrics, {CLIPS} clips; theirs: 7 of them, {LOOPED} draws, scaled",
        lambda: drawn_metrics(labels, scores, draws),
        lambda: looped(labels, scores, few),
        goal=50,
        runs=3,
    )
    print_figures([replace(found, theirs_seconds=found.theirs_seconds * DRAWS / LOOPED)])


def looped(labels: np.ndarray, scores: np.ndarray, draws: Draws) -> None:
    """The metrics that scikit-learn has, with each draw's clips weighted as often as they are drawn."""
    called = scores >= 0.5
    for counts in draws.counts:
        weight = counts[draws.member]
        for ranked in (roc_auc_score, average_precision_score, roc_curve, log_loss, brier_score_loss):
            ranked(labels, scores, sample_weight=weight)
        for decided in (balanced_accuracy_score, f1_score):
            decided(labels, called, sample_weight=weight)


if __name__ == "__main__":
    main()
