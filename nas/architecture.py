"""Architecture parameters: sampling a mix from them, and deriving the genotype that they favour."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.choices import Choosers
from nas.config import SpaceName
from nas.genotype import Cell, Genotype, Step
from nas.random import Streams
from nas.space import Candidates, CellMix, Mix

INITIAL_SCALE = 1e-3


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
            drawn = Streams(seeds, f"architecture.{name}", parameter.device).normal(parameter.shape[1:])
            parameter.copy_(INITIAL_SCALE * drawn)

    @property
    def size(self) -> int:
        """Logits of one run."""
        return sum(parameter[0].numel() for parameter in self.parameters())

    def sample(self, choosers: Choosers) -> Mix:
        """Return the mix that the choosers make of the logits and of new noise."""
        noise = choosers.draw(self.size)
        mixed = choosers.choose([*self.alpha, *self.beta, self.gamma], noise)
        S = len(self.alpha)
        alpha, beta, gamma = mixed[:S], mixed[S:-1], mixed[-1]
        # Of all cells at once, and taken apart by unbind: the gradient of single picks is a tensor of zeros for each.
        steps = zip(*(self._slots(weights).unbind(1) for weights in beta), strict=True)
        operations = (of_cell.unbind(1) for of_cell in gamma.unbind(1))
        return Mix(tuple(map(CellMix, map(self._slots, alpha), steps, operations)))

    def _slots(self, weights: Tensor) -> Tensor:
        """Return what nodes' slots weigh, (R, ..., 2, n); of "bmnas", where both slots read the same, (R, ..., 1, n).

        Where a hard sample leaves a node of "bmnas" without any edge, the node reads the mean of its candidates: of an
        input of zeros the norms would make a gradient of any size.
        """
        if self.space == "slots":
            return weights
        skip = weights[..., 1]
        empty = (skip.detach().sum(dim=-1, keepdim=True) == 0.0).to(skip.dtype)
        return (skip + empty / skip.shape[-1]).unsqueeze(-2)

    def entropy(self) -> Tensor:
        """Return the mean entropy of the kinds of choices per run (R,), differentiable; 1 is uniform."""
        groups = (list(self.alpha), list(self.beta), [self.gamma])
        return torch.stack([torch.cat([_entropy(p) for p in group], 1).mean(1) for group in groups], 1).mean(1)

    @torch.no_grad()
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
        masses = [
            torch.stack(
                [p[:, _of(cell.inputs, m)].sum(1) for p, cell in zip(reads, self.candidates.cells, strict=True)], 1
            )
            for m in ("visual", "audio")
        ]
        visual, audio = (mass.sum(1) for mass in masses)
        shares = {"visual": visual / (visual + audio)}
        operations = self.candidates.cells[0].steps[0].operations
        if "Sum" in operations:
            shares["sum"] = self.gamma.softmax(-1)[..., operations.index("Sum")].flatten(1).mean(1)
        if self.space == "bmnas":
            shares["edges"] = torch.cat(reads, dim=1).mean(1)
        return shares

    def _reads(self, logits: Tensor) -> Tensor:
        """Return how much every candidate of a cell is read, (R, n)."""
        p = logits.softmax(-1)
        return p.sum(1) if self.space == "slots" else p[..., 1]

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
    def derive(self, streams: Streams | None = None) -> list[Genotype]:
        """Return the genotype of every run: the most probable choices under the constraints.

        The two inputs of a node differ. No two cells read the same pair: cells choose in order, each the best pair
        that is left. With streams, the logits are perturbed by Gumbel noise of the run's own first: a genotype drawn
        with the probabilities of its choices.
        """
        logits = [*self.alpha, *self.beta, self.gamma]
        if streams is not None:
            noise = streams.exponential((self.size,)).log()
            parts = torch.split(noise, [parameter[0].numel() for parameter in logits], dim=1)
            logits = [parameter - part.view_as(parameter) for parameter, part in zip(logits, parts, strict=True)]
        S = len(self.alpha)
        alpha = [self._pair_scores(parameter) for parameter in logits[:S]]
        beta = [self._pair_scores(parameter) for parameter in logits[S:-1]]
        gamma = logits[-1].argmax(-1).tolist()
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


def _of(names: Sequence[str], modality: str) -> list[int]:
    """Return the places of one modality's layers."""
    return [i for i, name in enumerate(names) if name.startswith(f"{modality}/")]


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of every site, (R, sites), as a share of log K."""
    log_p = logits.log_softmax(-1)
    return (-(log_p.exp() * log_p).sum(-1) / math.log(logits.shape[-1])).flatten(1)


def _parameters(shapes: Iterator[tuple[int, ...]]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)
