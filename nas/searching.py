"""The search: weights on the train split and architecture parameters on the validation split, in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.captured import Captured
from nas.choices import Choosers
from nas.config import SearchConfig, check_configs
from nas.cost import CostShare
from nas.data import Dataset, Minibatches, check_seeds, losses, of_modality, prepare
from nas.failures import Row, RunError, RunResult, checked, collapse_warnings, curve_rows, failure
from nas.functions import multiplying
from nas.genotype import Genotype
from nas.halving import different, halve
from nas.layers import Pass
from nas.network import Supernet
from nas.optimiser import Adam, WeightOptimiser
from nas.random import Dropout, Streams
from nas.reading import Mix
from nas.scoring import area_under_roc, best_of, val_logits
from nas.space import Space

DEFAULTS = SearchConfig()

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Found:
    """An architecture that a search found.

    score: its AUC on val under the shared weights, as in `curves` and by `nas.scoring.shared_scores`. trained: what it
    was judged by once it was really trained for a while, see `nas.halving`; None where it was not.
    """

    genotype: Genotype
    score: float
    trained: float | None = None


@dataclass(frozen=True)
class SearchResult(RunResult):
    """The outcome of one run.

    curves: one dict per epoch with epoch, train_loss, val_loss and val_auc (of the derived architecture, under the
    shared weights), arch_grad_norm (None while only weights train), entropy_cells, entropy_steps, entropy_operations
    and the shares of `ArchitectureParameters.shares` in [0, 1]. history: after each epoch, the choice probabilities per
    cell and step, as `ArchitectureParameters.probabilities` gives them. warnings: what the choices have collapsed to,
    one sentence each. found: what `members` asks for, the best first. weights: where asked for, the run's shared
    weights and batch-norm statistics, {name: (1, ...)}, as `Supernet.fusion` names them.
    """

    history: list[list[dict[str, Any]]]
    warnings: list[str]
    found: tuple[Found, ...] | None
    weights: dict[str, Tensor] | None = None

    @property
    def members(self) -> tuple[Found, ...]:
        """What was found, the best first."""
        return self._well(self.found)

    @property
    def genotype(self) -> Genotype:
        """The best architecture."""
        return self.members[0].genotype

    @property
    def score(self) -> float:
        """That of the best architecture."""
        return self.members[0].score

    @property
    def probabilities(self) -> list[dict[str, Any]]:
        """The choice probabilities that the search ended with."""
        return self._well(self.history)[-1]


def search(
    features: Mapping[str, Tensor],
    labels: Any,
    split: Sequence[str],
    configs: SearchConfig | Sequence[SearchConfig] = DEFAULTS,
    seeds: Sequence[int] = (0,),
    *,
    progress: Progress | None = None,
    keep_weights: bool = False,
) -> list[SearchResult]:
    """Return one result per seed; all runs train at once, and none depends on the others.

    A run that fails (`SearchResult.failed` says why) leaves the others as they are; only where all of them fail, the
    first one's RunError is raised. Nothing depends on the order of the rows. On the CPU, with one thread of torch, a
    run gives to the bit what it gives alone; with several, or on a GPU, up to rounding, which a search can magnify.

    configs: one for all runs, or one per seed; those of one call may differ in the settings of `nas.config.PER_RUN`
    (equal `nas.batch_key`), others are a ValueError.

    features: {"visual/NAME" or "audio/NAME": (N, L, C_in)}, float16 or float32; labels: (N,), 1 is fake; split:
    (N,) of train, val, test. Test rows are never read.

    With V views of every window, features are (V, N, L, C_in), the same V for all layers. Weight steps read each
    train window in a view that the run draws anew every time the window's turn comes, the same for all layers.
    Architecture steps and the curves read view 0 only: choices are judged on windows as they are scored later.

    A window that lacks a modality, as one without sound, has zeros as its features of it: they are left out.

    keep_weights: also return the shared weights of every run.
    """
    seeds = check_seeds(seeds)
    per_run = check_configs(configs, len(seeds))
    config = per_run[0]
    data = prepare(of_modality(features, config.modality), labels, split, config.device, reads="train_val")
    state = Search(data, per_run, seeds)
    with multiplying(config.precision):
        for epoch in range(config.epochs):
            rows = state.epoch(epoch)
            if progress is not None:
                progress({"stage": "search", "epoch": epoch + 1, "epochs": config.epochs, "runs": rows})
            if all(state.errors):
                break
        return checked(state.results(keep_weights))


class Search:
    """The state of R searches; `config` is any run's, where only shared settings are read."""

    def __init__(self, data: Dataset, configs: Sequence[SearchConfig], seeds: tuple[int, ...]) -> None:
        self.data, self.configs, self.config, self.seeds = data, configs, configs[0], seeds
        self.curves: list[list[Row]] = [[] for _ in seeds]
        self.histories: list[list[list[dict[str, Any]]]] = [[] for _ in seeds]
        self.errors: list[RunError | None] = [None] * len(seeds)
        config, device = configs[0], data.device
        self.space = Space(tuple(data.features), config.cells, config.steps, config.space, config.operations)
        self.supernet = Supernet(
            self.space, data.in_channels, channels=config.channels, length=data.length, seeds=seeds, head=config.head
        ).to(device)
        self.train = Minibatches(data.train, config.batch_size, Streams(seeds, "train batches", device))
        self.val = Minibatches(data.val, config.batch_size, Streams(seeds, "val batches", device))
        self.views = Streams(seeds, "train views", device)
        self.choosers = Choosers(configs, seeds, device)
        self.weight_choosers = Choosers(configs, seeds, device, of_weights=True)
        self.dropout = Dropout(seeds, config.dropout, device)
        self.class_weights = data.class_weights(config.class_weights)
        self.steps = max(-(-len(data.train) // self.train.batch_size), config.min_steps_per_epoch)
        self.weights = list(self.supernet.fusion.parameters())
        self.weight_optimiser = WeightOptimiser(self.weights, configs, self.steps)
        self.arch_optimiser = Adam(
            self.supernet.architecture.parameters(),
            lr=[c.arch_lr for c in configs],
            betas=[(c.arch_beta, 0.999) for c in configs],
            weight_decay=[c.arch_weight_decay for c in configs],
        )
        self.cost = CostShare(
            self.space, data.in_channels, channels=config.channels, length=data.length, kind=config.cost, device=device
        )
        weighed = {name: [getattr(c, name) for c in configs] for name in ("entropy_weight", "cost_weight")}
        self.factors = {name: torch.tensor(values, device=device) for name, values in weighed.items() if any(values)}
        self.captured = Captured(device)

    def results(self, keep_weights: bool) -> list[SearchResult]:
        """Return what every run ends with."""
        state, results = self.supernet.fusion.state_dict(), []
        weights = [{name: value[r : r + 1] for name, value in state.items()} for r in range(len(self.seeds))]
        found = self._found(weights)
        for r, (seed, curve, error) in enumerate(zip(self.seeds, self.curves, self.errors, strict=True)):
            warnings = collapse_warnings(curve, seed, self.space) if error is None else []
            kept = {n: x.clone() for n, x in weights[r].items()} if keep_weights and error is None else None
            results.append(SearchResult(seed, curve, error, self.histories[r], warnings, found.get(r), kept))
        return results

    def _found(self, weights: Sequence[Mapping[str, Tensor]]) -> dict[int, tuple[Found, ...]]:
        """Return {run that is well: what it found}; half of what best_of compares are drawn, the others beside them."""
        architecture, config = self.supernet.architecture, self.config
        streams = Streams(self.seeds, "candidates", self.data.device)
        count = (config.candidates + 1) // 2 if config.derive == "best_of" else 1
        drawn = [architecture.derive(streams if i else None) for i in range(count)]
        scores: dict[int, dict[Genotype, float]] = {}
        for r in (r for r, error in enumerate(self.errors) if error is None):
            of_run = [genotypes[r] for genotypes in drawn]
            scores[r] = {of_run[0]: self.curves[r][-1]["val_auc"]}
            if config.derive == "best_of":
                scores[r] = best_of(of_run, self.space, self.data, weights[r], count=config.candidates)
        left = halve(self.data, [different(of_run) for of_run in scores.values()], config)
        return {
            r: tuple(Found(genotype, scores[r][genotype], trained) for genotype, trained in of_run.items())
            for r, of_run in zip(scores, left, strict=True)
        }

    def epoch(self, epoch: int) -> list[dict[str, Any]]:
        """Return one row of the curves per run after one epoch."""
        warmup = self.config.warmup_epochs
        searching = epoch >= warmup
        if searching:
            share = (epoch - warmup) / max(self.config.epochs - warmup - 1, 1)
            self.choosers.anneal(share)
            self.weight_choosers.anneal(share)
        train_loss = torch.zeros(len(self.seeds), device=self.data.device)
        norm = torch.zeros_like(train_loss)
        for _ in range(self.steps):
            loss, of_step = self.step(searching=searching)
            train_loss += loss / self.steps
            norm += of_step / self.steps
        return self._record(epoch, train_loss, norm if searching else None)

    def step(self, *, searching: bool) -> tuple[Tensor, Tensor]:
        """Return the train loss and the norm of the architecture gradient per run, (R,) each, of one step.

        That is a step of the weights on train and, when searching, one of the choices; else the norm is 0. What the
        host knows beforehand is done here; the rest leaves nothing behind but on the device, so that it is captured.
        """
        rows = self.train.next()
        of_choices = self.val.next() if searching and self.config.level == "bilevel" else rows
        self.weight_optimiser.next()
        loss, norm = self.captured(self._step, rows, of_choices, searching=searching)
        return loss, norm

    def _step(self, rows: Tensor, of_choices: Tensor, *, searching: bool) -> tuple[Tensor, Tensor]:
        loss = self._weight_step(rows)
        return loss, self._arch_step(of_choices) if searching else torch.zeros_like(loss)

    def _losses(self, rows: Tensor, mix: Mix, how: Pass, views: Tensor | None = None) -> Tensor:
        logits = self.supernet(self.data.gather(rows, self.space.layers, views), mix, how)
        return losses(logits, self.data.labels[rows], self.class_weights)

    def _weight_step(self, rows: Tensor) -> Tensor:
        """Return the loss per run (R,) of one step on a train minibatch (R, B)."""
        with torch.no_grad():  # the choices are constants here: their gradient would cost a third of the step
            mix = self.supernet.architecture.sample(self.weight_choosers)
        per_run = self._losses(
            rows, mix, Pass("track", self.dropout, self.data.gaps), self.data.draw_views(rows, self.views)
        )
        self.weight_optimiser.descend(per_run.sum())
        return per_run.detach()

    def _arch_step(self, rows: Tensor) -> Tensor:
        """Return the gradient's norm per run (R,) of one step on a val minibatch (single level: on the train one)."""
        for weight in self.weights:  # or their gradients are computed, too
            weight.requires_grad_(False)
        try:
            per_run = self._arch_losses(rows)
        finally:
            for weight in self.weights:
                weight.requires_grad_(True)
        gradients = list(torch.autograd.grad(per_run.sum(), self.arch_optimiser.parameters))
        self.arch_optimiser.step(gradients)
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).square().sum(dim=1).sqrt()

    def _arch_losses(self, rows: Tensor) -> Tensor:
        """Return what architecture steps lower, per run (R,): the loss, and what the weights in the config add."""
        mix = self.supernet.architecture.sample(self.choosers)
        per_run = self._losses(rows, mix, Pass("batch", gaps=self.data.gaps))
        for name, factors in self.factors.items():
            per_run = per_run + factors * (self._entropy() if name == "entropy_weight" else self.cost(mix))
        return per_run

    def _entropy(self) -> Tensor:
        return torch.stack(list(self.supernet.architecture.entropies().values()), 1).mean(1)

    @torch.no_grad()
    def _record(self, epoch: int, train_loss: Tensor, norm: Tensor | None) -> list[Row]:
        """Return one row per run; add it to the curves of those that are well, and find those that fail by it."""
        architecture = self.supernet.architecture
        logits = val_logits(self.data, architecture.derive(), self.supernet.fusion.state_dict())
        labels = self.data.labels[self.data.val]
        columns = {
            **({} if norm is None else {"arch_grad_norm": norm}),
            "train_loss": train_loss,
            "val_loss": losses(logits, labels, self.class_weights),
            "val_auc": area_under_roc(logits[..., 1] - logits[..., 0], labels),
            **{f"entropy_{name}": value for name, value in architecture.entropies().items()},
            **{f"share_{name}": value for name, value in architecture.shares().items()},
        }
        rows = curve_rows(epoch, columns)
        for r, row in enumerate(rows):
            if self.errors[r] is None:
                vanishes = norm is not None and self.configs[r].estimator != "published"
                self.errors[r] = failure(row, self.seeds[r], vanishes=vanishes)
                self.curves[r].append({"arch_grad_norm": None} | row)
                if self.errors[r] is None:
                    self.histories[r].append(architecture.probabilities(r))
        return [{"arch_grad_norm": None} | row for row in rows]
