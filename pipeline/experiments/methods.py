"""What stands beside a searched network: probes, designs, fixed cells, searches, random search, as ways to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import nas
from cache_schemas.run import NetworkName
from nas.baselines import DESIGNS, ONE_SHOT, PUBLISHED, fixed_genotypes, train_design
from nas.space import Space
from pipeline.controls.probes import probe_sets, probes
from pipeline.params import Params
from pipeline.runs.cache import Windows, hears
from pipeline.runs.jobs import all_results
from pipeline.runs.keys import settings_of
from pipeline.runs.retrain import training_seed
from pipeline.runs.search import network_of
from pipeline.statistics.systems import SAMPLED

RANDOM_ARCHITECTURES = 8
"""Trained by random search, which keeps the best on val: about what a search and one training cost."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a method comes to with one seed. scores: P(fake) of every window (N,); failed: why there are none, or ""."""

    scores: Floats = field(default_factory=lambda: np.empty(0))
    parameters: int = 0
    failed: str = ""


@dataclass(frozen=True)
class Method:
    """A way to scores: run gives an outcome per seed.

    settings: what of the parameters it depends on; random: whether it depends on the seed.
    """

    name: str
    run: Callable[[Windows, Sequence[int]], list[Outcome]]
    settings: Sequence[Any] = ()
    random: bool = True


def methods(windows: Windows, params: Params) -> dict[str, Method]:
    """{name: method}; which ones there are depends on the layers that the cache holds."""
    layers, search, retrain = list(windows.features), params.search, params.retrain
    trained = [settings_of(retrain)]
    designs = [
        (f"{m} only, MLP", "ConcatMLP", [name for name in layers if name.startswith(f"{m}/")])
        for m in ("visual", "audio")
    ]
    designs += [(_TITLES[design], design, layers) for design in DESIGNS]
    found = [
        Method(f"{kind}, {title}", partial(_probe, kind, names), random=False)
        for title, names in probe_sets(layers).items()
        for kind in probes
    ]
    found += [Method(name, partial(_design, design, names, retrain), trained) for name, design, names in designs]
    found += [
        Method(name, partial(_fixed, genotype, retrain), trained) for name, genotype in fixed_genotypes(layers).items()
    ]
    found += [
        Method(name, partial(_searched, config, retrain), [settings_of(config), *trained])
        for name, config in searches(search).items()
    ]
    space = Space(tuple(layers), search.cells, search.steps, search.space, search.operations)
    sampled = [search.cells, search.steps, search.space, search.operations, *trained]
    found.append(Method(SAMPLED, partial(_sampled, space, retrain), sampled))
    found.append(
        Method(
            f"random search, best of {RANDOM_ARCHITECTURES} on val",
            partial(_random_search, space, retrain),
            sampled,
        )
    )
    return {method.name: method for method in found}


_TITLES = {"ConcatMLP": "concatenation MLP", "GMU": "gated multimodal unit", "CentralNet": "CentralNet"}

SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "search, space slots, st_gumbel": {"space": "slots", "estimator": "st_gumbel"},
    "search, space slots, gumbel_rao": {"space": "slots", "estimator": "gumbel_rao"},
    "search, space bmnas, st_gumbel (STGS-BMNAS)": {"space": "bmnas", "estimator": "st_gumbel"},
    "search, space bmnas, gumbel_rao (GRMC-BMNAS)": {"space": "bmnas", "estimator": "gumbel_rao"},
    "search, space bmnas, softmax (BM-NAS, DARTS)": {"space": "bmnas", "estimator": "softmax"},
    "search, one ConcatFC a cell (MFAS-like)": {"space": "slots", "operations": ("ConcatFC",), "steps": 1},
    "the released code's procedure": PUBLISHED,
    "one-shot, best_of": ONE_SHOT,
}
"""Searches, by what they change in params.yaml's `search`."""


def searches(own: nas.SearchConfig) -> dict[str, nas.SearchConfig]:
    """{name: settings} of SEARCHES, and params.yaml's own search where it is none of them."""
    found = {name: nas.SearchConfig.model_validate({**own.model_dump(), **of}) for name, of in SEARCHES.items()}
    return found if own in found.values() else {"search, as in params.yaml": own} | found


def _probe(kind: str, names: Sequence[str], windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
    windows = windows.to_train_on(names)
    probe = probes[kind]({name: plain(windows)[name] for name in names}, windows.labels, windows.split)
    return [Outcome(probe.scores, probe.parameters)]


def _design(
    design: str, names: Sequence[str], config: nas.RetrainConfig, windows: Windows, seeds: Sequence[int]
) -> list[Outcome]:
    windows = windows.to_train_on(names)
    features = {name: windows.features[name] for name in names}
    results = all_results(lambda: train_design(features, windows.labels, windows.split, design, config, seeds))
    return [
        Outcome(failed=result.failed) if result.failed else Outcome(result.scores.double().numpy(), result.parameters)
        for result in results
    ]


def _fixed(genotype: nas.Genotype, config: nas.RetrainConfig, windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
    return [_outcome(result) for result in _retrained(config, windows, [genotype] * len(seeds), seeds)]


def _searched(
    config: nas.SearchConfig, retrain: nas.RetrainConfig, windows: Windows, seeds: Sequence[int]
) -> list[Outcome]:
    learnt = windows.to_train_on(windows.layers_of(network_of(config)))
    found = all_results(lambda: nas.search(learnt.features, learnt.labels, learnt.split, config, seeds))
    members = [
        (result.seed, place, of) for result in found if not result.failed for place, of in enumerate(result.members)
    ]
    trained: dict[int, list[Outcome]] = {result.seed: [] for result in found}
    if members:
        own = [training_seed(seed, place, config.members) for seed, place, _ in members]
        results = _retrained(retrain, windows, [of.genotype for *_, of in members], own)
        for (seed, *_), result in zip(members, results, strict=True):
            trained[seed].append(_outcome(result))
    return [_mean(trained[result.seed], result.failed) for result in found]


def _mean(members: Sequence[Outcome], failed: str) -> Outcome:
    """What the members that are well say together."""
    well = [of for of in members if not of.failed]
    if not well:
        return Outcome(failed=failed or members[0].failed)
    return Outcome(np.mean([of.scores for of in well], axis=0), sum(of.parameters for of in well))


def _sampled(space: Space, config: nas.RetrainConfig, windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
    genotypes = [space.sample(1, seed)[0] for seed in seeds]
    return [_outcome(result) for result in _retrained(config, windows, genotypes, seeds)]


def _random_search(space: Space, config: nas.RetrainConfig, windows: Windows, seeds: Sequence[int]) -> list[Outcome]:
    outcomes = []
    for seed in seeds:
        genotypes = space.sample(RANDOM_ARCHITECTURES, seed)
        results = _retrained(config, windows, genotypes, [seed] * len(genotypes))
        best = max(results, key=lambda result: -1.0 if result.failed else result.val_auc)
        outcomes.append(_outcome(best))
    return outcomes


def _retrained(
    config: nas.RetrainConfig, windows: Windows, genotypes: Sequence[nas.Genotype], seeds: Sequence[int]
) -> Sequence[nas.RetrainResult]:
    found: dict[int, nas.RetrainResult] = {}
    for heard in (True, False):
        places = [i for i, genotype in enumerate(genotypes) if hears(genotype.layers()) == heard]
        if places:
            of, chosen = windows.to_train_on(genotypes[places[0]].layers()), [genotypes[i] for i in places]
            data = (of.features, of.labels, of.split)
            train = partial(nas.retrain, *data, chosen, config, [seeds[i] for i in places])
            found |= zip(places, all_results(train), strict=True)
    return [found[i] for i in range(len(genotypes))]


def _outcome(result: nas.RetrainResult) -> Outcome:
    if result.failed:
        return Outcome(failed=result.failed)
    return Outcome(result.scores.double().numpy(), sum(p.numel() for p in result.network.parameters()))


def plain(windows: Windows, network: NetworkName = "fusion") -> dict[str, torch.Tensor]:
    """The features that a network may read, of the windows themselves, without their views."""
    return {name: x if x.ndim == 3 else x[0] for name, x in windows.layers_of(network).items()}
