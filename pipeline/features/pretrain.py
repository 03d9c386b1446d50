"""Stage `pretrain` (optional): trains a backbone on one modality, as BM-NAS does; what it learns is then frozen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from cache_schemas.files import replacing, write_json
from cache_schemas.media import FACES, SPECTROGRAMS
from cache_schemas.shards import read_rows
from pipeline.backbones.base import Modality, scaled_frames, standardised, weights_sha256
from pipeline.backbones.timm_family import create
from pipeline.compute.machine import device_of
from pipeline.compute.progress import progress_bar
from pipeline.features.stage import MODALITIES, WindowSource, window_sources
from pipeline.params import NetworkParams, Params, PretrainParams
from pipeline.statistics import metrics
from pipeline.workspace import Workspace


class PretrainError(RuntimeError):
    """A backbone cannot be trained; the message names it, why, and the way out."""


@dataclass(frozen=True)
class Pretrained:
    """One trained backbone: what it was, how it went, where its weights are."""

    modality: Modality
    name: str
    start: dict[str, str]
    """Identity of the first weights: `weights` and `weights_sha256`."""
    weights: str
    """Name of the file beside pretrain.json."""
    best_epoch: int
    val_auc: float
    curves: list[dict[str, float]]
    """One row an epoch: epoch, train_loss, val_loss, val_auc."""


@dataclass(frozen=True)
class _Labelled:
    source: WindowSource
    label: int


def run_pretrain(workspace: Workspace, params: Params) -> list[Pretrained]:
    """The trained backbones, none where no one asks; writes their weights (safetensors) and pretrain.json."""
    wanted = {m: found for m in MODALITIES if (found := getattr(params.pretrain, m)) is not None}
    sources = window_sources(workspace, params) if wanted else []
    trained = []
    for modality, network in wanted.items():
        entry, state = _train(modality, network, sources, params)
        with replacing(workspace.pretrain / entry.weights) as temporary:
            safetensors.torch.save_file(state, temporary)
        trained.append(entry)
    for modality in set(MODALITIES) - set(wanted):
        (workspace.pretrain / f"{modality}.safetensors").unlink(missing_ok=True)  # of an earlier run
    content = {"params": params.pretrain.model_dump(mode="json"), "entries": [asdict(entry) for entry in trained]}
    write_json(workspace.pretrain / "pretrain.json", content)
    return trained


def _train(
    modality: Modality, network: NetworkParams, sources: Sequence[WindowSource], params: Params
) -> tuple[Pretrained, dict[str, torch.Tensor]]:
    if ":" in network.name and not network.name.startswith(("hf-hub:", "local-dir:")):
        raise PretrainError(
            f"pretrain.{modality}: {network.name} is not timm's; only timm networks can be trained here"
        )
    train, val = (_labelled(sources, modality, split) for split in ("train", "val"))
    device = device_of(params.compute)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(params.seed)
        trainer = _Trainer(modality, network, params.pretrain, device, n_train=len(train))
        start = {"weights": network.weights, "weights_sha256": weights_sha256(trainer.net)}
        total = params.pretrain.epochs * (len(train) + len(val))
        with progress_bar(f"pretrain {modality}", total=total, unit="windows") as advance:
            curves, best = _epochs(trainer, train, val, params, advance)
    row = curves[best[0]]
    entry = Pretrained(
        modality, network.name, start, f"{modality}.safetensors", int(row["epoch"]), row["val_auc"], curves
    )
    return entry, best[1]


def _epochs(
    trainer: _Trainer,
    train: Sequence[_Labelled],
    val: Sequence[_Labelled],
    params: Params,
    advance: Callable[[int], None],
) -> tuple[list[dict[str, float]], tuple[int, dict[str, torch.Tensor]]]:
    """The curves, and the best epoch with its weights: the highest AUC on val, of equal ones the lowest loss."""
    order = torch.Generator().manual_seed(params.seed)
    curves: list[dict[str, float]] = []
    best: tuple[tuple[float, float], int, dict[str, torch.Tensor]] | None = None
    for epoch in range(params.pretrain.epochs):
        shuffled = [train[i] for i in torch.randperm(len(train), generator=order).tolist()]
        train_loss = trainer.fit(shuffled, advance)
        val_loss, val_auc = trainer.judge(val, advance)
        if not math.isfinite(train_loss) or not math.isfinite(val_loss):
            raise PretrainError(
                f"pretrain: the loss is no longer finite in epoch {epoch}; lower pretrain.learning_rate "
                f"({params.pretrain.learning_rate:g})"
            )
        curves.append({"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "val_auc": val_auc})
        if best is None or (val_auc, -val_loss) > best[0]:
            best = (val_auc, -val_loss), epoch, trainer.state()
    assert best is not None  # noqa: S101 - there is at least one epoch
    return curves, best[1:]


class _Trainer:
    """A timm network with one output, its optimiser, and what a batch is for it."""

    def __init__(
        self, modality: Modality, network: NetworkParams, params: PretrainParams, device: str, *, n_train: int
    ) -> None:
        self.modality = modality
        self.batch_size = params.batch_size
        self.device = device
        self.net: Any = create(modality, network, num_classes=1).to(device, memory_format=torch.channels_last)
        config = self.net.pretrained_cfg
        self.mean, self.std = (torch.tensor(config[name], device=device) for name in ("mean", "std"))
        self.optimiser = torch.optim.Adam(
            self.net.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
        )
        steps = params.epochs * math.ceil(n_train / params.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, steps)

    def fit(self, rows: Sequence[_Labelled], advance: Callable[[int], None]) -> float:
        """The mean loss of one pass, each class weighted by the inverse of its share."""
        self.net.train()
        fakes = sum(row.label for row in rows)
        weight = torch.tensor((len(rows) - fakes) / fakes, device=self.device)
        total = 0.0
        for batch in _batches(rows, self.batch_size):
            if len(batch) > 1:  # a batch norm cannot train on a single spectrogram
                loss = binary_cross_entropy_with_logits(*self._outputs(batch), pos_weight=weight)
                self.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimiser.step()
                total += loss.item() * len(batch)
            self.schedule.step()
            advance(len(batch))
        return total / len(rows)

    @torch.inference_mode()
    def judge(self, rows: Sequence[_Labelled], advance: Callable[[int], None]) -> tuple[float, float]:
        """(mean loss, AUC) in evaluation mode."""
        self.net.eval()
        logits = []
        for batch in _batches(rows, self.batch_size):
            logits.append(self._outputs(batch)[0])
            advance(len(batch))
        scores, labels = torch.cat(logits).cpu().double(), torch.tensor([row.label for row in rows])
        loss = binary_cross_entropy_with_logits(scores, labels.double())
        auc = metrics.auc(labels.numpy(), scores.numpy()) if loss.isfinite() else math.nan
        return float(loss), float(auc)

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the weights, under timm's names."""
        return {name: copy.deepcopy(x).cpu().contiguous() for name, x in self.net.state_dict().items()}

    def _outputs(self, batch: Sequence[_Labelled]) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, labels), both (B,): a window's logit is the mean of its frames'."""
        labels = torch.tensor([float(row.label) for row in batch], device=self.device)
        if self.modality == "visual":
            crops = torch.stack([_read(row.source.faces, FACES, "crops") for row in batch]).to(self.device)
            frames = self.net(scaled_frames(crops, self.mean, self.std))
            return frames.view(len(batch), -1).mean(dim=1), labels
        sounds = [_read(row.source.spectrogram, SPECTROGRAMS, "spectrogram") for row in batch]
        return self.net(standardised(torch.stack(sounds).to(self.device))[:, None]).flatten(), labels


def _read(where: tuple[Any, int], schema: Any, name: str) -> torch.Tensor:
    return torch.from_numpy(read_rows(where[0], schema, [where[1]])[name][0])


def _batches(rows: Sequence[_Labelled], size: int) -> Iterator[Sequence[_Labelled]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _labelled(sources: Sequence[WindowSource], modality: Modality, split: str) -> list[_Labelled]:
    """The split's windows with the modality's own label; raises PretrainError where a class is missing."""
    rows = []
    for source in sources:
        label = source.labels[("visual", "audio").index(modality)]
        if source.clip.split == split and label is not None:
            rows.append(_Labelled(source, label))
    if len({row.label for row in rows}) < 2:
        raise PretrainError(
            f"pretrain.{modality}: the {split} split has {len(rows)} usable windows, and not both of real and fake "
            f"{'picture' if modality == 'visual' else 'sound'}; set pretrain.{modality} to null or add clips"
        )
    return rows
