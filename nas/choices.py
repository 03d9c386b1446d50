"""The choices of a search: estimators, architecture parameters, and the choosers that give each run its estimator.

An estimator is a pure function of (logits: (..., K), noise: (draws, ..., K), temperature) -> weights (..., K) that have
the right gradient, where noise holds draws of E ~ Exp(1); -log E is the standard Gumbel variable g.
`draws(estimator, samples)` says how many.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nas.config import EstimatorName, SearchConfig
from nas.genotype import Cell, Genotype, Step, step_inputs
from nas.random import Streams
from nas.reading import CellMix, Mix
from nas.space import Space

INITIAL_SCALE = 1e-3
Logits = Float[Tensor, "*#choices K"]
Noise = Float[Tensor, "draws *#choices K"]
Temperature = float | Tensor
"""lambda: one number, or a tensor that broadcasts against the logits."""


class _StraightThrough(torch.autograd.Function):
    """The hard value forwards, the gradient of the soft value backwards.

    `hard + soft - soft.detach()` is the usual form, but in floating point it is not exactly one-hot.
    """

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def one_hot_of_largest(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return one_hot(argmax(scores)) along the last axis, in the scores' dtype."""
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(dim=-1, keepdim=True), 1.0)


def _perturbed(logits: Tensor, noise: Tensor) -> Tensor:
    """Return theta + g, (..., draws, K).

    The draws stand beside the options: what is added up over them, here and in the backward pass, is then added up for
    each choice by itself, in an order that does not depend on how many choices there are.
    """
    return (logits.unsqueeze(-2) - noise.log().movedim(0, -2)).contiguous()


def _soft(perturbed: Tensor, temperature: Temperature) -> Tensor:
    """Return softmax(perturbed / lambda) of (..., draws, K)."""
    of_draws = temperature.unsqueeze(-2) if isinstance(temperature, Tensor) else temperature
    return (perturbed / of_draws).softmax(dim=-1)


def softmax(logits: Logits, noise: Noise, temperature: Temperature) -> Logits:
    """Return softmax(theta): the relaxation of DARTS and BM-NAS, without noise or temperature."""
    return logits.softmax(dim=-1)


def gumbel(logits: Logits, noise: Noise, temperature: Temperature) -> Logits:
    """Return the mean over draws of softmax((theta + g) / lambda)."""
    return _soft(_perturbed(logits, noise), temperature).mean(dim=-2)


def st_gumbel(logits: Logits, noise: Noise, temperature: Temperature) -> Logits:
    """Return the mean over draws of one_hot(argmax(theta + g)), differentiated as softmax((theta + g) / lambda)."""
    perturbed = _perturbed(logits, noise)
    hard, soft = one_hot_of_largest(perturbed), _soft(perturbed, temperature)
    return _StraightThrough.apply(hard, soft).mean(dim=-2)  # type: ignore[no-any-return]


def gumbel_rao(logits: Logits, noise: Noise, temperature: Temperature) -> Logits:
    """Return D = one_hot(argmax(theta + g)), differentiated as the mean of softmax((theta + g') / lambda).

    The first draw decides D; each further one gives g' conditioned on D (Paulus et al., arXiv 2010.04838). g' is
    held constant in the backward pass, as g is in st_gumbel: the expected gradients are then the same.
    """
    chosen = one_hot_of_largest(logits.detach() - noise[0].log())
    fixed = conditional_perturbed(logits.detach(), chosen, noise[1:]) - logits.detach()
    soft = _soft((logits.unsqueeze(-2) + fixed.movedim(0, -2)).contiguous(), temperature).mean(dim=-2)
    return _StraightThrough.apply(chosen, soft)  # type: ignore[no-any-return]


def conditional_perturbed(logits: Logits, chosen: Logits, noise: Noise) -> Noise:
    """Return theta + g' given that its argmax is the chosen option: (draws, ..., K), E from noise.

    theta_i + g_i = -log E_i + log Z; theta_j + g_j = -log(E_j / exp(theta_j) + E_i / Z). With theta replaced by
    log softmax(theta), Z = 1: nothing overflows, and the shift by log Z is added back.
    """
    log_z = logits.logsumexp(dim=-1, keepdim=True)
    probabilities = (logits - log_z).exp()
    of_chosen = (noise * chosen).sum(dim=-1, keepdim=True)
    others = torch.where(chosen > 0, 0.0, noise / probabilities)
    return log_z - (others + of_chosen).log()


def published(logits: Logits, noise: Noise, temperature: Temperature) -> Logits:
    """Return what the method's released code makes of M draws: it divides by lambda once per draw, M times over.

    theta <- (theta + g) / lambda for each draw, then softmax. Nothing is straight-through, and the gradient falls as
    lambda^-M: the choices stay where they start. For comparison only.
    """
    scaled = logits
    for drawn in noise:
        scaled = (scaled - drawn.log()) / temperature
    return scaled.softmax(dim=-1)


Estimator = Callable[[Tensor, Tensor, Temperature], Tensor]
ESTIMATORS: dict[EstimatorName, Estimator] = {
    "softmax": softmax,
    "gumbel": gumbel,
    "st_gumbel": st_gumbel,
    "gumbel_rao": gumbel_rao,
    "published": published,
}


def draws(estimator: EstimatorName, samples: int) -> int:
    """Return how many draws of noise the estimator takes for M samples."""
    return {"softmax": 0, "gumbel_rao": samples + 1}.get(estimator, samples)


class Chooser:
    """Makes mixing weights for the runs that share an estimator and a number of samples."""

    def __init__(
        self, estimator: EstimatorName, samples: int, runs: Sequence[int], streams: Streams, temperatures: list[float]
    ) -> None:
        """runs: which of the R runs; streams, temperatures: theirs, in that order."""
        self.estimator = ESTIMATORS[estimator]
        self.draws = draws(estimator, samples)
        self.runs = torch.tensor(runs, device=streams.device)
        self.streams = streams
        self.temperature = torch.tensor(temperatures, device=streams.device)

    def choose(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Return weights (runs, ...) out of logits (runs, ...) per parameter, and of new noise."""
        sizes = [parameter[0].numel() for parameter in logits]
        parts = torch.split(self.streams.exponential((self.draws, sum(sizes))).transpose(0, 1), sizes, dim=2)
        weights = []
        for parameter, noise in zip(logits, parts, strict=True):
            temperature = self.temperature.view(-1, *[1] * (parameter.ndim - 1))
            weights.append(self.estimator(parameter, noise.reshape(-1, *parameter.shape), temperature))
        return weights


class Choosers:
    """The choosers of all R runs, for one use: as few as there are pairs of estimator and number of samples."""

    def __init__(
        self, configs: Sequence[SearchConfig], seeds: Sequence[int], device: torch.device, *, of_weights: bool = False
    ) -> None:
        """of_weights: for weight steps, where `weight_mix: expected` reads softmax(theta), the mean of all draws."""
        self.configs = configs
        groups: dict[tuple[EstimatorName, int], list[int]] = {}
        for run, config in enumerate(configs):
            mean = of_weights and config.weight_mix == "expected"
            groups.setdefault(("softmax", 1) if mean else (config.estimator, config.samples), []).append(run)
        use = "weight choices" if of_weights else "choices"
        self.groups = [
            Chooser(
                estimator,
                samples,
                runs,
                Streams([seeds[run] for run in runs], use, device),
                [configs[run].temperature for run in runs],
            )
            for (estimator, samples), runs in groups.items()
        ]
        self.back = torch.argsort(torch.cat([group.runs for group in self.groups]))

    def anneal(self, share: float) -> None:
        """Set every run's temperature to that of its schedule after this share of the search."""
        for group in self.groups:
            values = [annealed(self.configs[run], share) for run in group.runs.tolist()]
            group.temperature.copy_(torch.tensor(values))

    def choose(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Return weights (R, ...) out of logits (R, ...) per parameter, and of new noise."""
        if len(self.groups) == 1:
            return self.groups[0].choose(logits)
        parts = [group.choose([parameter[group.runs] for parameter in logits]) for group in self.groups]
        return [torch.cat(of_parameter)[self.back] for of_parameter in zip(*parts, strict=True)]


def annealed(config: SearchConfig, share: float) -> float:
    """Return the temperature after a share of the search, 0 to 1, of the epochs that train the architecture."""
    start, end = config.temperature, config.temperature_end
    if end is None:
        return start
    if config.temperature_schedule == "exponential":
        return float(start * (end / start) ** share)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class ArchitectureParameters(nn.Module):
    """The logits alpha (cells' inputs), beta (steps' inputs) and gamma (operations) of R runs.

    Space "slots": each of a node's two slots is one categorical choice over its n candidates, logits (2, n); a hard
    sample is an architecture up to the rule that the two slots differ, which only the derivation enforces.
    Space "bmnas": each of the n edges chooses among {none, skip}, logits (n, 2); the sum of the skip weights'
    products feeds both slots, and the derivation keeps the two edges with the largest skip probability.
    Sites of one shape share a tensor: alpha[i] (R, sites), beta[t] (R, S, sites), gamma (R, S, T, operations).
    """

    def __init__(self, space: Space, seeds: Sequence[int]) -> None:
        super().__init__()
        self.space = space
        S, T = space.cells, space.steps

        def logits(name: str, *shape: int) -> nn.Parameter:
            return nn.Parameter(INITIAL_SCALE * Streams(seeds, f"architecture.{name}", "cpu").normal(shape))

        def inputs(name: str, names: Sequence[str], *cells: int) -> nn.Parameter:
            return logits(name, *cells, *((2, len(names)) if space.kind == "slots" else (len(names), 2)))

        self.alpha = nn.ParameterList(inputs(f"alpha.{i}", space.cell_inputs(i)) for i in range(S))
        self.beta = nn.ParameterList(inputs(f"beta.{t}", step_inputs(t), S) for t in range(T))
        self.gamma = logits("gamma", S, T, len(space.operations))

    def sample(self, choosers: Choosers) -> Mix:
        """Return the mix that the choosers make of the logits and of new noise."""
        mixed = choosers.choose([*self.alpha, *self.beta, self.gamma])
        S = len(self.alpha)
        alpha, beta, gamma = mixed[:S], mixed[S:-1], mixed[-1]
        # Of all cells at once, and taken apart by unbind: the gradient of single picks is a tensor of zeros for each.
        steps = zip(*(self._slots(weights).unbind(1) for weights in beta), strict=True)
        operations = (of_cell.unbind(1) for of_cell in gamma.unbind(1))
        return tuple(map(CellMix, map(self._slots, alpha), steps, operations))

    def _slots(self, weights: Tensor) -> Tensor:
        """Return what nodes' slots weigh, (R, ..., 2, n); of "bmnas", where both slots read the same, (R, ..., 1, n).

        Where a hard sample leaves a node of "bmnas" without any edge, the node reads the mean of its candidates: of an
        input of zeros the norms would make a gradient of any size.
        """
        if self.space.kind == "slots":
            return weights
        skip = weights[..., 1]
        empty = (skip.detach().sum(dim=-1, keepdim=True) == 0.0).to(skip.dtype)
        return (skip + empty / skip.shape[-1]).unsqueeze(-2)

    def entropies(self) -> dict[str, Tensor]:
        """Return the mean entropy of cell, step and operation choices per run, (R,) each; 1 is uniform."""
        groups = {"cells": list(self.alpha), "steps": list(self.beta), "operations": [self.gamma]}
        return {name: torch.cat([_entropy(p) for p in group], 1).mean(1) for name, group in groups.items()}

    @torch.no_grad()
    def shares(self) -> dict[str, Tensor]:
        """Return how much of the choices is of one kind per run, (R,) each, in [0, 1].

        visual: of the layers that cells read, by probability; sum: of the operations, the one without weights; edges
        (space "bmnas" only): of all edges, those that read instead of {none}.
        """
        reads = [self._reads(parameter) for parameter in self.alpha]

        def mass(modality: str) -> Tensor:
            places = [i for i, name in enumerate(self.space.layers) if name.startswith(f"{modality}/")]
            return torch.stack([p[:, places].sum(1) for p in reads], 1).sum(1)

        visual = mass("visual")
        shares = {"visual": visual / (visual + mass("audio"))}
        if "Sum" in self.space.operations:
            shares["sum"] = self.gamma.softmax(-1)[..., self.space.operations.index("Sum")].flatten(1).mean(1)
        if self.space.kind == "bmnas":
            shares["edges"] = torch.cat(reads, dim=1).mean(1)
        return shares

    def _reads(self, logits: Tensor) -> Tensor:
        """Return how much every candidate of a cell is read, (R, n)."""
        p = logits.softmax(-1)
        return p.sum(1) if self.space.kind == "slots" else p[..., 1]

    @torch.no_grad()
    def probabilities(self, run: int) -> list[dict[str, Any]]:
        """Return the choice probabilities of one run, per cell: plain dicts and lists.

        "x" and "y" (space "slots": P(candidate) per slot) or "skip" (space "bmnas": P(skip) per edge) stand beside
        the names of the candidates in "inputs".
        """
        gamma = self.gamma[run].softmax(-1)
        return [
            {
                **self._named(self.space.cell_inputs(i), self.alpha[i][run]),
                "steps": [
                    {
                        **self._named(step_inputs(t), self.beta[t][run, i]),
                        "operations": dict(zip(self.space.operations, gamma[i, t].tolist(), strict=True)),
                    }
                    for t in range(self.space.steps)
                ],
            }
            for i in range(self.space.cells)
        ]

    def _named(self, inputs: tuple[str, ...], logits: Tensor) -> dict[str, Any]:
        probabilities = logits.softmax(-1).tolist()
        if self.space.kind == "slots":
            return {"inputs": list(inputs), "x": probabilities[0], "y": probabilities[1]}
        return {"inputs": list(inputs), "skip": [skip for _, skip in probabilities]}

    @torch.no_grad()
    def derive(self, streams: Streams | None = None) -> list[Genotype]:
        """Return the genotype of every run: the most probable choices under the constraints.

        The two inputs of a node differ. No two cells read the same pair: cells choose in order, each the best pair
        that is left. With streams, the logits are perturbed by Gumbel noise of the run's own first: a genotype drawn
        with the probabilities of its choices.
        """
        logits = [*self.alpha, *self.beta, self.gamma]
        if streams is not None:
            sizes = [parameter[0].numel() for parameter in logits]
            parts = torch.split(streams.exponential((sum(sizes),)).log(), sizes, dim=1)
            logits = [parameter - part.view_as(parameter) for parameter, part in zip(logits, parts, strict=True)]
        S = len(self.alpha)
        alpha = [self._pair_scores(parameter) for parameter in logits[:S]]
        beta = [self._pair_scores(parameter) for parameter in logits[S:-1]]
        gamma = logits[-1].argmax(-1).tolist()
        return [self._genotype([a[r] for a in alpha], [b[r] for b in beta], gamma[r]) for r in range(len(self.gamma))]

    def _pair_scores(self, logits: Tensor) -> list[Any]:
        """Return log P(x = a, y = b) nested (R, ..., n, n), -inf for pairs that are no choice, and for no others."""
        log_p = logits.log_softmax(-1)
        if self.space.kind == "slots":
            scores = log_p[..., 0, :, None] + log_p[..., 1, None, :]
            impossible = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        else:
            skip = log_p[..., 1]
            scores = skip[..., :, None] + skip[..., None, :]
            impossible = torch.ones_like(scores[..., :, :], dtype=torch.bool).tril()
        lowest = torch.finfo(scores.dtype).min
        possible = scores.nan_to_num(nan=lowest, neginf=lowest)  # of a run that diverged
        nested: list[Any] = possible.masked_fill(impossible, -math.inf).tolist()
        return nested

    def _genotype(self, alpha: list[Any], beta: list[Any], gamma: list[list[int]]) -> Genotype:
        taken: set[frozenset[str]] = set()
        cells = []
        for i in range(self.space.cells):
            x, y = _best_pair(alpha[i], self.space.cell_inputs(i), taken)
            taken.add(frozenset((x, y)))
            steps = []
            for t in range(self.space.steps):
                left, right = _best_pair(beta[t][i], step_inputs(t), set())
                steps.append(Step(x=left, y=right, operation=self.space.operations[gamma[i][t]]))
            cells.append(Cell(x=x, y=y, steps=tuple(steps)))
        return Genotype(cells=tuple(cells))


def _best_pair(scores: list[list[float]], names: tuple[str, ...], taken: set[frozenset[str]]) -> tuple[str, str]:
    pairs = [
        (score, (x, y))
        for x, row in zip(names, scores, strict=True)
        for y, score in zip(names, row, strict=True)
        if frozenset((x, y)) not in taken
    ]
    return max(pairs, key=lambda pair: pair[0])[1]


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of every site, (R, sites), as a share of log K; 0 of a single option, which is no choice."""
    log_p = logits.log_softmax(-1)
    return (-(log_p.exp() * log_p).sum(-1) / math.log(max(logits.shape[-1], 2))).flatten(1)
