"""The search: weights on the train split and architecture parameters on the validation split, in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.architecture import Chooser
from nas.config import SearchConfig, check_configs
from nas.data import Dataset, Minibatches, check_seeds, losses, prepare
from nas.genotype import Genotype
from nas.layers import Dropout, Pass
from nas.metrics import area_under_roc
from nas.optimiser import Adam
from nas.space import Candidates, Mix, fixed_mix
from nas.streams import Streams
from nas.supernet import Supernet
from nas.training import WeightOptimiser, evaluate, frozen

# A gradient below this is rounding, not signal: a working estimator's is above 1e-6 (it shrinks as 1 / lambda),
# the reference code's was 1e-16.
VANISHED = 1e-10
DEFAULTS = SearchConfig()

Progress = Callable[[dict[str, Any]], None]


class VanishingArchitectureGradient(RuntimeError):  # noqa: N818 - it names the event
    """The architecture parameters receive no gradient: they would end where they were initialised."""

    def __init__(self, norms: Mapping[int, float], epoch: int) -> None:
        listed = ", ".join(f"seed {seed}: {norm:.3g}" for seed, norm in norms.items())
        super().__init__(
            f"the mean norm of the architecture gradient in epoch {epoch} is below {VANISHED:g} ({listed}); the "
            "search would be random. Check that features vary between windows, and lower the temperature"
        )
        self.norms = dict(norms)


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one run.

    curves: one dict per epoch with epoch, train_loss, val_loss and val_auc (of the derived architecture, evaluation
    mode), arch_grad_norm (None while only weights train) and entropy_cells, entropy_steps, entropy_operations in
    [0, 1]. probabilities: final choice probabilities per cell and step. weights: where asked for, the run's shared
    weights and batch-norm statistics, {name: (1, ...)}, as `Supernet.fusion` names them.
    """

    genotype: Genotype
    seed: int
    curves: list[dict[str, Any]]
    probabilities: list[dict[str, Any]]
    weights: dict[str, Tensor] | None = None


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

    configs: one for all runs, or one per seed; those of one call may differ in the settings of `nas.config.PER_RUN`
    (equal `nas.batch_key`), others are a ValueError.

    features: {"visual/NAME" or "audio/NAME": (N, C_in, L)}, float16 or float32; labels: (N,), 1 is fake; split:
    (N,) of train, val, test. Test rows are never read.

    With V views of every window, features are (V, N, C_in, L), the same V for all layers. Weight steps read each
    train window in a view that the run draws anew every time the window's turn comes, the same for all layers.
    Architecture steps and the curves read view 0 only: choices are judged on windows as they are scored later.
    """
    seeds = check_seeds(seeds)
    per_run = check_configs(configs, len(seeds))
    config = per_run[0]
    data = prepare(features, labels, split, config.device, reads="train_val")
    state = _Search(data, per_run, seeds)
    curves: list[list[dict[str, Any]]] = [[] for _ in state.seeds]
    for epoch in range(config.epochs):
        rows = state.epoch(epoch)
        for curve, row in zip(curves, rows, strict=True):
            curve.append(row)
        if progress is not None:
            progress({"stage": "search", "epoch": epoch + 1, "epochs": config.epochs, "runs": rows})
    return state.results(curves, keep_weights)


class _Search:
    """The state of R searches; `config` is any run's, where only shared settings are read."""

    def __init__(self, data: Dataset, configs: Sequence[SearchConfig], seeds: tuple[int, ...]) -> None:
        self.data, self.config, self.seeds = data, configs[0], seeds
        config = self.config
        self.candidates = Candidates.full(tuple(data.features), config.cells, config.steps)
        self.supernet = Supernet(
            self.candidates,
            data.in_channels,
            space=config.space,
            channels=config.channels,
            length=data.length,
            seeds=seeds,
        ).to(data.device)
        self.train = Minibatches(data.train, config.batch_size, Streams(seeds, "train batches", data.device))
        self.val = Minibatches(data.val, config.batch_size, Streams(seeds, "val batches", data.device))
        self.views = Streams(seeds, "train views", data.device)
        self.choosers = Chooser.of(configs, seeds, data.device)
        self.dropout = Dropout(seeds, config.dropout, data.device)
        self.class_weights = data.class_weights(config.class_weights)
        self.steps = max(-(-len(data.train) // self.train.batch_size), config.min_steps_per_epoch)
        self.weight_optimiser = WeightOptimiser(self.supernet.weight_parameters(), list(configs), self.steps)
        self.arch_optimiser = Adam(
            self.supernet.arch_parameters(),
            lr=[c.arch_lr for c in configs],
            betas=(0.5, 0.999),
            weight_decay=[c.arch_weight_decay for c in configs],
        )

    def results(self, curves: list[list[dict[str, Any]]], keep_weights: bool) -> list[SearchResult]:
        """Return what every run ends with."""
        architecture = self.supernet.architecture
        state = self.supernet.fusion.state_dict()
        return [
            SearchResult(
                genotype,
                seed,
                curves[r],
                architecture.probabilities(r),
                {name: value[r : r + 1].clone() for name, value in state.items()} if keep_weights else None,
            )
            for r, (genotype, seed) in enumerate(zip(architecture.derive(), self.seeds, strict=True))
        ]

    def epoch(self, epoch: int) -> list[dict[str, Any]]:
        """Return one row of the curves per run after one epoch."""
        searching = epoch >= self.config.warmup_epochs
        train_loss = torch.zeros(len(self.seeds), device=self.data.device)
        norm = torch.zeros_like(train_loss)
        for _ in range(self.steps):
            train_loss += self._weight_step() / self.steps
            if searching:
                norm += self._arch_step() / self.steps
        if searching:
            self._check_gradient(norm.tolist(), epoch)
        return self._rows(epoch, train_loss, norm if searching else None)

    def _sample(self, batch: int) -> Mix:
        return self.supernet.architecture.sample(self.choosers, batch if self.config.draw_per == "window" else 1)

    def _losses(self, rows: Tensor, mix: Mix, how: Pass, views: Tensor | None = None) -> Tensor:
        logits = self.supernet(self.data.gather(rows, self.candidates.layers, views), mix, how)
        return losses(logits, self.data.labels[rows], self.class_weights)

    def _weight_step(self) -> Tensor:
        rows = self.train.next()
        with torch.no_grad():  # the choices are constants here: their gradient would cost a third of the step
            mix = self._sample(rows.shape[1])
        per_run = self._losses(rows, mix, Pass("track", self.dropout), self.data.draw_views(rows, self.views))
        self.weight_optimiser.step(per_run.sum())
        return per_run.detach()

    def _arch_step(self) -> Tensor:
        """Return the gradient's norm per run (R,) of one step on a validation minibatch."""
        rows = self.val.next()
        with frozen(self.supernet.weight_parameters()):
            per_run = self._losses(rows, self._sample(rows.shape[1]), Pass("batch"))
        gradients = torch.autograd.grad(per_run.sum(), self.arch_optimiser.parameters)
        self.arch_optimiser.step(gradients)
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).square().sum(dim=1).sqrt()

    def _check_gradient(self, norms: list[float], epoch: int) -> None:
        vanished = {seed: n for seed, n in zip(self.seeds, norms, strict=True) if not n >= VANISHED}
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
        }
        if norm is not None:
            columns["arch_grad_norm"] = norm
        values = {name: column.tolist() for name, column in columns.items()}
        return [
            {"epoch": epoch, "arch_grad_norm": None} | {name: column[r] for name, column in values.items()}
            for r in range(len(self.seeds))
        ]
