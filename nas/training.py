"""The final training: fixed architectures, from scratch on the train split, stopped by the validation split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.captured import Captured
from nas.config import RetrainConfig, check_config
from nas.data import Dataset, Minibatches, check_genotypes, check_seeds, losses, prepare
from nas.failures import Row, RunError, RunResult, checked, curve_rows, failure
from nas.functions import multiplying
from nas.genotype import Genotype
from nas.layers import Pass
from nas.network import CompactNetwork, FixedNetwork, RunsNetwork
from nas.optimiser import WeightOptimiser
from nas.random import Dropout, Streams
from nas.scoring import area_under_roc

DEFAULTS = RetrainConfig()
EVALUATION_ROWS = 256
LEAVING = 0.05
"""Runs that have stopped are computed on until they are this share: moving the others costs about one step of all."""

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingResult(RunResult):
    """The outcome of one training. curves: one dict per epoch with epoch, train_loss, val_loss and val_auc.

    trained: the scores and the epoch whose weights were kept.
    """

    trained: tuple[Tensor, int] | None

    @property
    def scores(self) -> Tensor:
        """P(fake) of every row, (N,), on the CPU."""
        return self._well(self.trained)[0]

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights were kept."""
        return self._well(self.trained)[1]

    @property
    def val_auc(self) -> float:
        """The AUC on val of the weights that were kept."""
        auc: float = self.curves[self.best_epoch]["val_auc"]
        return auc


@dataclass(frozen=True)
class RetrainResult(TrainingResult):
    """The outcome of one training of a genotype. kept: the best epoch's weights, cut down to it."""

    genotype: Genotype
    kept: CompactNetwork | None

    @property
    def network(self) -> CompactNetwork:
        """The network of the best epoch."""
        return self._well(self.kept)


def retrain(  # noqa: PLR0917 - callers may name them
    features: Mapping[str, Tensor],
    labels: Any,
    split: Sequence[str],
    genotypes: Genotype | Sequence[Genotype],
    config: RetrainConfig = DEFAULTS,
    seeds: Sequence[int] = (0,),
    *,
    progress: Progress | None = None,
) -> list[RetrainResult]:
    """Return one result per seed: run r trains genotypes[r] (a single genotype serves all) with seeds[r].

    All runs train at once, and none depends on the others: as in `nas.search`, to the bit in one thread. A run that
    fails (`RetrainResult.failed` says why) leaves the others as they are; only where all of them fail, the first one's
    RunError is raised. Rows of the test split are scored, nothing more, and nothing depends on the order of the rows.

    features, labels, split: as for `nas.search`. Of (V, N, L, C_in), training steps read each train window in a view
    that the run draws anew every time the window's turn comes; curves and scores come from view 0.
    """
    seeds, config = check_seeds(seeds), check_config("config", config, RetrainConfig)
    data = prepare(features, labels, split, config.device, reads="all")
    of_runs = _per_run(genotypes, seeds, data)
    network = fixed_network(data, config, of_runs, seeds)
    state = Training(data, config, network, seeds)
    results = []
    for r, trained in enumerate(state.run(progress)):
        kept = (
            None if trained is None else CompactNetwork.from_weights(of_runs[r], network.state_of(r), data.in_channels)
        )
        results.append(RetrainResult(seeds[r], state.curves[r], state.errors[r], trained, of_runs[r], kept))
    return checked(results)


def fixed_network(
    data: Dataset, config: RetrainConfig, genotypes: Sequence[Genotype], seeds: Sequence[int]
) -> FixedNetwork:
    """Return untrained networks for the data set, run r of architecture genotypes[r]."""
    sizes = {"channels": config.channels, "length": data.length}
    return FixedNetwork(genotypes, data.in_channels, **sizes, seeds=seeds, head=config.head)


def _per_run(genotypes: Genotype | Sequence[Genotype], seeds: Sequence[int], data: Dataset) -> list[Genotype]:
    given = check_genotypes(genotypes, data.features)
    if len(given) not in (1, len(seeds)):
        raise ValueError(f"genotypes has {len(given)} entries for {len(seeds)} seeds; allowed: 1 or {len(seeds)}")
    for index, genotype in enumerate(given):
        sizes = [len(cell.steps) for cell in genotype.cells]
        first = [len(cell.steps) for cell in given[0].cells]
        if sizes != first or len(set(sizes)) > 1:
            raise ValueError(
                f"genotypes[{index}] has cells of {sizes} steps; allowed in one call: the same number in all cells, "
                f"and as genotypes[0] {first}"
            )
    return given * len(seeds) if len(given) == 1 else given


class Training:
    """The state of R trainings.

    What a run draws comes from its seed and the place it is drawn for. Runs of one and the same seed therefore draw the
    same: minibatches and dropout are then drawn once, with a leading axis of 1, and read by all of them. As nothing
    that is drawn depends on who reads it, such runs can also leave: `network` holds the runs `present`, in that order.
    """

    def __init__(self, data: Dataset, config: RetrainConfig, network: RunsNetwork, seeds: tuple[int, ...]) -> None:
        self.data, self.config, self.network, self.seeds = data, config, network, seeds
        self.whole, self.present = network.to(data.device), list(range(len(seeds)))
        self.shared = len(set(seeds)) == 1
        drawing = seeds[:1] if self.shared else seeds
        self.batches = Minibatches(data.train, config.batch_size, Streams(drawing, "train batches", data.device))
        self.views = Streams(drawing, "train views", data.device)
        runs_at = None if self.shared else network.runs_of
        self.dropout = Dropout(drawing, config.dropout, data.device, runs_at)
        self.rows_of = {  # of what is drawn, those that a layer's readers take, where they are not all
            name: torch.tensor(runs, device=data.device)
            for name, runs in network.readers.items()
            if not self.shared and len(runs) < len(seeds)
        }
        self.class_weights = data.class_weights(config.class_weights)
        self.steps = max(-(-len(data.train) // self.batches.batch_size), config.min_steps_per_epoch)
        self.optimiser = WeightOptimiser(self.network.parameters(), [config], self.steps)
        self.captured = Captured(data.device)
        self.curves: list[list[Row]] = [[] for _ in seeds]
        self.errors: list[RunError | None] = [None] * len(seeds)
        self.active = [True] * len(seeds)
        self.best = [(-1.0, 0.0)] * len(seeds)
        self.best_epoch = [0] * len(seeds)
        self.best_state = {name: value.clone() for name, value in self.network.state_dict().items()}

    def epoch(self, epoch: int) -> list[Row]:
        """Return one row of the curves per run that is present, after one epoch; stopped runs are not recorded."""
        train_loss = torch.zeros(len(self.present), device=self.data.device)
        for _ in range(self.steps):
            train_loss += self.step() / self.steps
        logits = self.evaluate(self.data.val)
        labels = self.data.labels[self.data.val]
        columns = {
            "train_loss": train_loss,
            "val_loss": losses(logits, labels, self.class_weights),
            "val_auc": area_under_roc(logits[..., 1] - logits[..., 0], labels),
        }
        rows = curve_rows(epoch, columns)
        self._keep_best(epoch, rows)
        self.let_go()
        return rows

    def step(self) -> Tensor:
        """Return the loss of every run that is present, of one step on a train minibatch."""
        rows = self.batches.next()
        self.optimiser.next()
        (loss,) = self.captured(self._step, rows)
        return loss

    def _step(self, rows: Tensor) -> tuple[Tensor]:
        features = self._gather(rows, self.data.draw_views(rows, self.views))
        logits = self.network(features, Pass("track", self.dropout, self.data.gaps))
        per_run = losses(logits, self.data.labels[rows], self.class_weights)
        self.optimiser.descend(per_run.sum())
        return (per_run.detach(),)

    @torch.no_grad()
    def evaluate(self, rows: Tensor) -> Tensor:
        """Return logits (runs present, n, 2) of rows (n,) in evaluation mode: stored statistics, no dropout."""
        layers = tuple(self.network.readers)
        parts, how = torch.split(rows, EVALUATION_ROWS), Pass(gaps=self.data.gaps)
        return torch.cat([self.network(self.data.gather(part[None], layers), how) for part in parts], dim=1)

    def _gather(self, rows: Tensor, views: Tensor | None) -> dict[str, Tensor]:
        """Return the minibatch of every layer for the runs that read it: {layer: (readers or 1, B, L, C_in)}."""
        features: dict[str, Tensor] = {}
        for name in self.network.readers:
            own = self.rows_of.get(name, slice(None))
            features |= self.data.gather(rows[own], (name,), None if views is None else views[own])
        return features

    def _keep_best(self, epoch: int, rows: list[Row]) -> None:
        """Record the epoch; end runs that fail by it; keep the weights of those with a higher AUC on val.

        Of an equal AUC, those with less loss.
        """
        better = set()
        for r, row in zip(self.present, rows, strict=True):
            if not self.active[r]:
                continue
            self.curves[r].append(row)
            self.errors[r] = failure(row, self.seeds[r])
            if self.errors[r] is not None:
                self.active[r] = False
                continue
            reached = (row["val_auc"], -row["val_loss"])
            if epoch == 0 or reached > self.best[r]:
                self.best[r], self.best_epoch[r] = reached, epoch
                better.add(r)
            self.active[r] = epoch - self.best_epoch[r] < self.config.patience
        places = {i for i, r in enumerate(self.present) if r in better}
        for name, value in self.network.state_dict().items():
            self.best_state[name][self.whole.rows(name, better)] = value[self.network.rows(name, places)]

    def let_go(self) -> None:
        """Leave out the runs that are not active, if they draw what the others do and are at least LEAVING of all."""
        staying = [i for i, r in enumerate(self.present) if self.active[r]]
        if not self.shared or not staying or len(staying) > (1 - LEAVING) * len(self.present):
            return
        before, self.network = self.network, self.network.take(staying)
        self.present = [self.present[i] for i in staying]
        places = {name: place for place, (name, _) in enumerate(before.named_parameters())}
        taken = [(places[name], before.rows(name, staying)) for name, _ in self.network.named_parameters()]
        self.optimiser = self.optimiser.take(self.network.parameters(), taken)
        self.captured.forget()

    def run(self, progress: Progress | None) -> list[tuple[Tensor, int] | None]:
        """Return every run's scores (N,), on the CPU, and best epoch; None of those that failed.

        `network` then holds every run's best weights.
        """
        with multiplying(self.config.precision):
            for epoch in range(self.config.epochs):
                rows = self.epoch(epoch)
                if progress is not None:
                    progress({"stage": "retrain", "epoch": epoch + 1, "epochs": self.config.epochs, "runs": rows})
                if not any(self.active):
                    break
            self.network, self.present = self.whole, list(range(len(self.seeds)))
            self.network.load_state_dict(self.best_state)
            scores = torch.empty(len(self.seeds), self.data.windows)
            for part in (self.data.train, self.data.val, self.data.test):  # apart: none depends on the rows of another
                if len(part):
                    scores[:, part.cpu()] = self.evaluate(part).softmax(-1)[..., 1].cpu()
            return [None if error else (scores[r].clone(), self.best_epoch[r]) for r, error in enumerate(self.errors)]
