"""The search: weights on the train split and architecture parameters on the validation split, in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.choices import Choosers
from nas.collapse import collapse_warnings
from nas.config import SearchConfig, check_configs
from nas.cost_share import CostShare
from nas.data import Dataset, Minibatches, check_seeds, losses, of_modality, prepare
from nas.derivation import best_of
from nas.genotype import Genotype
from nas.layers import Pass
from nas.metrics import area_under_roc
from nas.network import Supernet
from nas.optimiser import Adam, WeightOptimiser, frozen
from nas.random import Dropout, Streams
from nas.space import Candidates, Mix, fixed_mix
from nas.training import evaluate

# A gradient below this is rounding, not signal: a working estimator's is above 1e-6 (it shrinks as 1 / lambda),
# the reference code's was 1e-16.
VANISHED = 1e-10
DEFAULTS = SearchConfig()

Progress = Callable[[dict[str, Any]], None]


class VanishingArchitectureGradient(RuntimeError):  # noqa: N818 - it names the event
    """The architecture parameters receive no gradient: they would end where they were initialised."""

    def __init__(self, norms: Mapping[int, float], epoch: int) -> None:
        super().__init__(norms, epoch)  # as given: a worker process pickles it
        self.norms, self.epoch = dict(norms), epoch

    def __str__(self) -> str:
        listed = ", ".join(f"seed {seed}: {norm:.3g}" for seed, norm in self.norms.items())
        return (
            f"the mean norm of the architecture gradient in epoch {self.epoch} is below {VANISHED:g} ({listed}); the "
            "search would be random. Check that features vary between windows, and lower the temperature"
        )


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one run.

    curves: one dict per epoch with epoch, train_loss, val_loss and val_auc (of the derived architecture, evaluation
    mode), arch_grad_norm (None while only weights train), entropy_cells, entropy_steps, entropy_operations and the
    shares of `ArchitectureParameters.shares` in [0, 1]. history: after each epoch, the choice probabilities per cell
    and step, as `ArchitectureParameters.probabilities` gives them; probabilities: the last of them.
    warnings: what the choices have collapsed to, one sentence each. weights: where asked for, the run's shared weights
    and batch-norm statistics, {name: (1, ...)}, as `Supernet.fusion` names them.
    """

    genotype: Genotype
    seed: int
    curves: list[dict[str, Any]]
    history: list[list[dict[str, Any]]]
    warnings: list[str]
    weights: dict[str, Tensor] | None = None

    @property
    def probabilities(self) -> list[dict[str, Any]]:
        """The choice probabilities that the search ended with."""
        return self.history[-1]


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

    On the CPU, with one thread of torch, a run gives to the bit what it gives alone; with several, or on a GPU, up to
    rounding, which a search can magnify.

    configs: one for all runs, or one per seed; those of one call may differ in the settings of `nas.config.PER_RUN`
    (equal `nas.batch_key`), others are a ValueError.

    features: {"visual/NAME" or "audio/NAME": (N, L, C_in)}, float16 or float32; labels: (N,), 1 is fake; split:
    (N,) of train, val, test. Test rows are never read.

    With V views of every window, features are (V, N, L, C_in), the same V for all layers. Weight steps read each
    train window in a view that the run draws anew every time the window's turn comes, the same for all layers.
    Architecture steps and the curves read view 0 only: choices are judged on windows as they are scored later.

    keep_weights: also return the shared weights of every run.
    """
    seeds = check_seeds(seeds)
    per_run = check_configs(configs, len(seeds))
    config = per_run[0]
    data = prepare(of_modality(features, config.modality), labels, split, config.device, reads="train_val")
    state = Search(data, per_run, seeds)
    curves: list[list[dict[str, Any]]] = [[] for _ in seeds]
    histories: list[list[list[dict[str, Any]]]] = [[] for _ in seeds]
    for epoch in range(config.epochs):
        rows = state.epoch(epoch)
        for r, row in enumerate(rows):
            curves[r].append(row)
            histories[r].append(state.supernet.architecture.probabilities(r))
        if progress is not None:
            progress({"stage": "search", "epoch": epoch + 1, "epochs": config.epochs, "runs": rows})
    return state.results(curves, histories, keep_weights)


class Search:
    """The state of R searches; `config` is any run's, where only shared settings are read."""

    def __init__(self, data: Dataset, configs: Sequence[SearchConfig], seeds: tuple[int, ...]) -> None:
        self.data, self.configs, self.config, self.seeds = data, configs, configs[0], seeds
        config, device = configs[0], data.device
        self.candidates = Candidates.full(tuple(data.features), config.cells, config.steps, config.operations)
        self.supernet = Supernet(
            self.candidates,
            data.in_channels,
            space=config.space,
            channels=config.channels,
            length=data.length,
            seeds=seeds,
        ).to(device)
        self.train = Minibatches(data.train, config.batch_size, Streams(seeds, "train batches", device))
        self.val = Minibatches(data.val, config.batch_size, Streams(seeds, "val batches", device))
        self.views = Streams(seeds, "train views", device)
        self.choosers = Choosers(configs, seeds, device)
        self.weight_choosers = Choosers(configs, seeds, device, of_weights=True)
        self.dropout = Dropout(seeds, config.dropout, device)
        self.class_weights = data.class_weights(config.class_weights)
        self.steps = max(-(-len(data.train) // self.train.batch_size), config.min_steps_per_epoch)
        self.weight_optimiser = WeightOptimiser(self.supernet.weight_parameters(), configs, self.steps)
        self.arch_optimiser = Adam(
            self.supernet.arch_parameters(),
            lr=[c.arch_lr for c in configs],
            betas=[(c.arch_beta, 0.999) for c in configs],
            weight_decay=[c.arch_weight_decay for c in configs],
        )
        self.cost = CostShare(
            self.candidates,
            data.in_channels,
            channels=config.channels,
            length=data.length,
            kind=config.cost,
            device=device,
        )

    def results(
        self, curves: list[list[dict[str, Any]]], histories: list[list[list[dict[str, Any]]]], keep_weights: bool
    ) -> list[SearchResult]:
        """Return what every run ends with."""
        architecture = self.supernet.architecture
        state = self.supernet.fusion.state_dict()
        weights = [{name: value[r : r + 1] for name, value in state.items()} for r in range(len(self.seeds))]
        genotypes = architecture.derive() if self.config.derive == "argmax" else self._best_of(weights)
        return [
            SearchResult(
                genotype,
                seed,
                curves[r],
                histories[r],
                collapse_warnings(curves[r], seed, self.candidates),
                {name: value.clone() for name, value in weights[r].items()} if keep_weights else None,
            )
            for r, (genotype, seed) in enumerate(zip(genotypes, self.seeds, strict=True))
        ]

    def _best_of(self, weights: Sequence[Mapping[str, Tensor]]) -> list[Genotype]:
        """Return each run's best genotype by AUC on val: half of the candidates are drawn, the others beside them."""
        architecture, config = self.supernet.architecture, self.config
        streams = Streams(self.seeds, "candidates", self.data.device)
        drawn = [architecture.derive(streams if i else None) for i in range((config.candidates + 1) // 2)]
        return [
            best_of(of_run, self.candidates, config.space, self.data, weights[r], count=config.candidates)
            for r, of_run in enumerate(zip(*drawn, strict=True))
        ]

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
        if searching:
            self._check_gradient(norm.tolist(), epoch)
        return self._rows(epoch, train_loss, norm if searching else None)

    def step(self, *, searching: bool) -> tuple[Tensor, Tensor]:
        """Return the train loss and the norm of the architecture gradient per run, (R,) each, of one step.

        That is a step of the weights on train and, when searching, one of the choices; else the norm is 0.
        """
        rows = self.train.next()
        loss = self._weight_step(rows)
        return loss, self._arch_step(rows) if searching else torch.zeros_like(loss)

    def _losses(self, rows: Tensor, mix: Mix, how: Pass, views: Tensor | None = None) -> Tensor:
        logits = self.supernet(self.data.gather(rows, self.candidates.layers, views), mix, how)
        return losses(logits, self.data.labels[rows], self.class_weights)

    def _weight_step(self, rows: Tensor) -> Tensor:
        """Return the loss per run (R,) of one step on a train minibatch (R, B)."""
        with torch.no_grad():  # the choices are constants here: their gradient would cost a third of the step
            mix = self.supernet.architecture.sample(self.weight_choosers)
        per_run = self._losses(rows, mix, Pass("track", self.dropout), self.data.draw_views(rows, self.views))
        self.weight_optimiser.step(per_run.sum())
        return per_run.detach()

    def _arch_step(self, train_rows: Tensor) -> Tensor:
        """Return the gradient's norm per run (R,) of one step on a val minibatch (single level: on the train one)."""
        rows = self.val.next() if self.config.level == "bilevel" else train_rows
        with frozen(self.supernet.weight_parameters()):
            per_run = self._arch_losses(rows)
        gradients = list(torch.autograd.grad(per_run.sum(), self.arch_optimiser.parameters))
        self.arch_optimiser.step(gradients)
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).square().sum(dim=1).sqrt()

    def _arch_losses(self, rows: Tensor) -> Tensor:
        """Return what architecture steps lower, per run (R,): the loss, and what the weights in the config add."""
        mix = self.supernet.architecture.sample(self.choosers)
        per_run = self._losses(rows, mix, Pass("batch"))
        for name, of in (
            ("entropy_weight", self.supernet.architecture.entropy),
            ("cost_weight", lambda: self.cost(mix)),
        ):
            factors = [getattr(config, name) for config in self.configs]
            if any(factors):
                per_run = per_run + torch.tensor(factors, device=per_run.device) * of()
        return per_run

    def _check_gradient(self, norms: list[float], epoch: int) -> None:
        vanished = {
            seed: n
            for config, seed, n in zip(self.configs, self.seeds, norms, strict=True)
            if not n >= VANISHED and config.estimator != "published"
        }
        if vanished:
            raise VanishingArchitectureGradient(vanished, epoch)

    @torch.no_grad()
    def _rows(self, epoch: int, train_loss: Tensor, norm: Tensor | None) -> list[dict[str, Any]]:
        architecture = self.supernet.architecture
        mix = fixed_mix(self.candidates, architecture.derive(), self.data.device)
        logits = evaluate(self.supernet.fusion, mix, self.data, self.data.val)
        labels = self.data.labels[self.data.val]
        columns = {
            "train_loss": train_loss,
            "val_loss": losses(logits, labels, self.class_weights),
            "val_auc": area_under_roc(logits[..., 1] - logits[..., 0], labels),
            **{f"entropy_{name}": value for name, value in architecture.entropies().items()},
            **{f"share_{name}": value for name, value in architecture.shares().items()},
        }
        if norm is not None:
            columns["arch_grad_norm"] = norm
        values = {name: column.tolist() for name, column in columns.items()}
        return [
            {"epoch": epoch, "arch_grad_norm": None} | {name: column[r] for name, column in values.items()}
            for r in range(len(self.seeds))
        ]
