"""Successive halving: architectures are really trained, and after every rung the better half of them goes on."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nas.config import RetrainConfig, SearchConfig
from nas.data import Dataset
from nas.genotype import Genotype
from nas.scoring import area_under_roc
from nas.space import canonical
from nas.training import Training, fixed_network

SEED = 0
"""Of all trials: candidates begin alike and read the same minibatches, and nothing but their architecture differs."""


def different(genotypes: Iterable[Genotype]) -> list[Genotype]:
    """Return the genotypes in order, without those that compute the same function as an earlier one."""
    found: dict[Genotype, Genotype] = {}
    for genotype in genotypes:
        found.setdefault(canonical(genotype), genotype)
    return list(found.values())


def halve(
    data: Dataset, candidates: Sequence[Sequence[Genotype]], config: SearchConfig
) -> list[dict[Genotype, float | None]]:
    """Return per run `config.members` of its candidates, the best first, with the AUC on val that decided.

    candidates: per run, different ones, the most promising first. members x 2^rungs of them begin; they are trained for
    a rung's epochs and judged by their mean AUC on val over these, then the better half goes on to the next rung. Those
    of all runs train as one batch, in which none depends on the others. The AUC is None where there was no rung.
    """
    left = [list(of_run)[: config.begun] for of_run in candidates]
    tried = [r for r, of_run in enumerate(left) if len(of_run) > config.members]
    distinct = list(dict.fromkeys(genotype for r in tried for genotype in left[r]))
    if not distinct:
        return [dict.fromkeys(of_run) for of_run in left]
    state, worth = trial(data, distinct, config), dict[Genotype, float]()
    for epochs in config.rungs:
        aucs = torch.stack([_epoch(state) for _ in range(epochs)]).mean(0).nan_to_num(-1.0)
        worth |= zip([distinct[i] for i in state.present], aucs.tolist(), strict=True)
        for r in tried:
            ranked = sorted(left[r], key=lambda genotype: worth[genotype], reverse=True)
            left[r] = ranked[: max(config.members, len(ranked) // 2)]
        staying = {genotype for r in tried for genotype in left[r]}
        state.active = [genotype in staying for genotype in distinct]
        state.let_go()
    return [{genotype: worth[genotype] if r in tried else None for genotype in of_run} for r, of_run in enumerate(left)]


def trial(data: Dataset, genotypes: Sequence[Genotype], config: SearchConfig) -> Training:
    """Return trainings of these architectures: final ones, but as narrow as the search's networks."""
    shared = ("channels", "dropout", "head", "batch_size", "class_weights", "min_steps_per_epoch")
    of_trial = RetrainConfig(**{name: getattr(config, name) for name in shared})
    seeds = (SEED,) * len(genotypes)
    return Training(data, of_trial, fixed_network(data, of_trial, genotypes, seeds), seeds)


def _epoch(state: Training) -> Tensor:
    """Return the AUC on val of every run that is present, after one more epoch."""
    for _ in range(state.steps):
        state.step()
    logits = state.evaluate(state.data.val)
    return area_under_roc(logits[..., 1] - logits[..., 0], state.data.labels[state.data.val])
