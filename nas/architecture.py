"""Architecture parameters: sampling a mix from them, and deriving the genotype that they favour."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.config import SearchConfig, SpaceName
from nas.estimators import ESTIMATORS, draws
from nas.genotype import Cell, Genotype, Step
from nas.space import Candidates, CellMix, Mix
from nas.streams import Streams, generator

INITIAL_SCALE = 1e-3


class Chooser:
    """Makes mixing weights for the runs of one estimator and number of samples, out of the runs' own noise."""

    def __init__(
        self, configs: Sequence[SearchConfig], seeds: Sequence[int], runs: Sequence[int], device: torch.device
    ) -> None:
        """configs, seeds: of all runs; runs: those of one estimator and number of samples."""
        first = configs[runs[0]]
        self.estimator = ESTIMATORS[first.estimator]
        self.draws = draws(first.estimator, first.samples)
        self.every = len(runs) == len(seeds)
        self.runs = torch.tensor(runs, device=device)
        self.streams = Streams([seeds[run] for run in runs], "choices", device)
        self.temperature = torch.tensor([configs[run].temperature for run in runs], device=device)

    @classmethod
    def of(cls, configs: Sequence[SearchConfig], seeds: Sequence[int], device: torch.device) -> "list[Chooser]":
        """Return as few choosers as serve all runs."""
        groups: dict[tuple[str, int], list[int]] = {}
        for run, config in enumerate(configs):
            groups.setdefault((config.estimator, config.samples), []).append(run)
        return [cls(configs, seeds, runs, device) for runs in groups.values()]

    def choose(self, logits: Sequence[Tensor], windows: int) -> list[Tensor]:
        """Return weights (runs, windows, ...) out of logits (R, ...) per parameter; each window has its own draws."""
        own = [parameter if self.every else parameter[self.runs] for parameter in logits]
        sizes = [parameter[0].numel() for parameter in own]
        own = [parameter[:, None].expand(-1, windows, *parameter.shape[1:]) for parameter in own]
        noise = self.streams.exponential((self.draws, windows, sum(sizes))).transpose(0, 1)
        return [
            self.estimator(
                parameter,
                part.reshape(-1, *parameter.shape),
                self.temperature.view(-1, *[1] * (parameter.ndim - 1)),
            )
            for parameter, part in zip(own, torch.split(noise, sizes, dim=3), strict=True)
        ]


class ArchitectureParameters(nn.Module):
    """The logits alpha (cells' inputs), beta (steps' inputs) and gamma (operations) of R runs.

    Space "slots": each of a node's two slots is one categorical choice over its n candidates, logits (2, n); a hard
    sample is an architecture up to the rule that the two slots differ, which only the derivation enforces.
    Space "bmnas": each of the n edges chooses among {none, skip}, logits (n, 2); the sum of the skip weights'
    products feeds both slots, and the derivation keeps the two edges with the largest skip probability.
    Sites of one shape share a tensor: alpha[i] (R, sites), beta[t] (R, S, sites), gamma (R, S, T, operations).
    """

    def __init__(self, candidates: Candidates, space: SpaceName, seeds: Sequence[int]) -> None:
        super().__init__()
        self.candidates = candidates
        self.space = space
        R, S, T = len(seeds), len(candidates.cells), len(candidates.cells[0].steps)

        def sites(n: int) -> tuple[int, int]:
            return (2, n) if space == "slots" else (n, 2)

        self.alpha = _parameters((R, *sites(len(cell.inputs))) for cell in candidates.cells)
        self.beta = _parameters((R, S, *sites(len(step.inputs))) for step in candidates.cells[0].steps)
        self.gamma = nn.Parameter(torch.zeros(R, S, T, len(candidates.cells[0].steps[0].operations)))
        self._initialise(seeds)

    @torch.no_grad()
    def _initialise(self, seeds: Sequence[int]) -> None:
        for name, parameter in self.named_parameters():
            for row, seed in zip(parameter, seeds, strict=True):
                source = generator(seed, f"architecture.{name}")
                row.copy_(INITIAL_SCALE * torch.randn(row.shape, generator=source))

    def sample(self, choosers: Sequence["Chooser"], windows: int = 1) -> Mix:
        """Return the mix that each chooser makes, for its own runs, of the logits and one draw of noise per run."""
        logits = [*self.alpha, *self.beta, self.gamma]
        parts = [chooser.choose(logits, windows) for chooser in choosers]
        if len(parts) == 1:
            mixed = parts[0]
        else:
            back = torch.argsort(torch.cat([chooser.runs for chooser in choosers]))
            mixed = [torch.cat(of_site)[back] for of_site in zip(*parts, strict=True)]
        S, T = len(self.alpha), len(self.beta)
        alpha, beta, gamma = mixed[:S], mixed[S : S + T], mixed[-1]
        return Mix(
            tuple(
                CellMix(
                    self._slots(alpha[i]),
                    tuple(self._slots(weights[:, :, i]) for weights in beta),
                    tuple(gamma[:, :, i, t] for t in range(T)),
                )
                for i in range(S)
            )
        )

    def _slots(self, weights: Tensor) -> Tensor:
        """Return weights of the two slots (R, B, 2, n)."""
        if self.space == "slots":
            return weights
        return weights[..., None, :, 1].expand(*weights.shape[:2], 2, -1)

    @torch.no_grad()
    def entropies(self) -> dict[str, Tensor]:
        """Return the mean entropy of cell, step and operation choices per run, (R,) each; 1 is uniform."""
        groups = {"cells": list(self.alpha), "steps": list(self.beta), "operations": [self.gamma]}
        return {name: torch.cat([_entropy(p) for p in group], 1).mean(1) for name, group in groups.items()}

    @torch.no_grad()
    def probabilities(self, run: int) -> list[dict[str, Any]]:
        """Return the choice probabilities of one run, per cell: plain dicts and lists.

        "x" and "y" (space "slots": P(candidate) per slot) or "skip" (space "bmnas": P(skip) per edge) stand beside
        the names of the candidates in "inputs".
        """
        gamma = self.gamma[run].softmax(-1)
        return [
            {
                **self._named(cell.inputs, self.alpha[i][run]),
                "steps": [
                    {
                        **self._named(step.inputs, self.beta[t][run, i]),
                        "operations": dict(zip(step.operations, gamma[i, t].tolist(), strict=True)),
                    }
                    for t, step in enumerate(cell.steps)
                ],
            }
            for i, cell in enumerate(self.candidates.cells)
        ]

    def _named(self, inputs: tuple[str, ...], logits: Tensor) -> dict[str, Any]:
        probabilities = logits.softmax(-1).tolist()
        if self.space == "slots":
            return {"inputs": list(inputs), "x": probabilities[0], "y": probabilities[1]}
        return {"inputs": list(inputs), "skip": [skip for _, skip in probabilities]}

    @torch.no_grad()
    def derive(self) -> list[Genotype]:
        """Return the genotype of every run: the most probable choices under the constraints.

        The two inputs of a node differ. No two cells read the same pair: cells choose in order, each the best pair
        that is left.
        """
        alpha = [self._pair_scores(parameter) for parameter in self.alpha]
        beta = [self._pair_scores(parameter) for parameter in self.beta]
        gamma = self.gamma.argmax(-1).tolist()
        return [self._genotype([a[r] for a in alpha], [b[r] for b in beta], gamma[r]) for r in range(len(self.gamma))]

    def _pair_scores(self, logits: Tensor) -> list[Any]:
        """Return log P(x = a, y = b) nested (R, ..., n, n), -inf for pairs that are no choice."""
        log_p = logits.log_softmax(-1)
        if self.space == "slots":
            scores = log_p[..., 0, :, None] + log_p[..., 1, None, :]
            impossible = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        else:
            skip = log_p[..., 1]
            scores = skip[..., :, None] + skip[..., None, :]
            impossible = torch.ones_like(scores[..., :, :], dtype=torch.bool).tril()
        nested: list[Any] = scores.masked_fill(impossible, -math.inf).tolist()
        return nested

    def _genotype(self, alpha: list[Any], beta: list[Any], gamma: list[list[int]]) -> Genotype:
        taken: set[frozenset[str]] = set()
        cells = []
        for i, cell in enumerate(self.candidates.cells):
            x, y = _best_pair(alpha[i], cell.inputs, taken)
            taken.add(frozenset((x, y)))
            steps = []
            for t, step in enumerate(cell.steps):
                left, right = _best_pair(beta[t][i], step.inputs, set())
                steps.append(Step(x=left, y=right, operation=step.operations[gamma[i][t]]))
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
    """Return the entropy of every site, (R, sites), as a share of log K."""
    log_p = logits.log_softmax(-1)
    return (-(log_p.exp() * log_p).sum(-1) / math.log(logits.shape[-1])).flatten(1)


def _parameters(shapes: Iterator[tuple[int, ...]]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)
