"""Stage `pretrain` (optional): trains a backbone on one modality, as BM-NAS does; what it learns is then frozen.

A modality that is finished is not trained again, and a training that was interrupted goes on after its last epoch, from
MODALITY.progress.safetensors, to the same bytes.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from cache_schemas.files import digest, file_sha256, replacing, write_json
from cache_schemas.media import FACES, SPECTROGRAMS
from cache_schemas.shards import read_rows
from pipeline.backbones.base import scaled_frames, standardised, weights_sha256
from pipeline.backbones.timm_family import create
from pipeline.backbones.words import Modality
from pipeline.compute.machine import device_of
from pipeline.compute.progress import progress_bar
from pipeline.faces.stage import face_key
from pipeline.features.forward import MODALITIES
from pipeline.features.windows import WindowSource, window_sources
from pipeline.params import NetworkParams, Params, PretrainParams
from pipeline.sound.stage import spectrogram_key
from pipeline.statistics import metrics
from pipeline.workspace import Workspace

_VERSION = 1
"""Raise it when the same parameters give other weights."""


class PretrainError(RuntimeError):
    """A backbone cannot be trained; the message names it, why, and the way out."""


@dataclass(frozen=True)
class Pretrained:
    """One trained backbone: what it was, how it went, where its weights are."""

    modality: Modality
    name: str
    key: str
    """Names all that the weights depend on."""
    start: dict[str, str]
    """Identity of the first weights: `weights` and `weights_sha256`."""
    weights: str
    """Name of the file beside pretrain.json."""
    weights_file_sha256: str
    best_epoch: int
    val_auc: float
    curves: list[dict[str, float]]
    """One row an epoch: epoch, train_loss, val_loss, val_auc."""


@dataclass(frozen=True)
class _Labelled:
    source: WindowSource
    label: int


@dataclass(frozen=True)
class _Work:
    """One training, and where it is kept."""

    modality: Modality
    network: NetworkParams
    train: Sequence[_Labelled]
    val: Sequence[_Labelled]
    params: Params
    folder: Path

    @property
    def key(self) -> str:
        """Names all that the weights depend on."""
        kind, _, value = self.network.weights.partition(":")
        weights = file_sha256(Path(value)) if kind == "file" and Path(value).exists() else self.network.weights
        settings = self.params.pretrain.model_dump(mode="json", exclude={"visual", "audio"})
        stage = face_key(self.params) if self.modality == "visual" else spectrogram_key(self.params)
        rows = [
            [(row.source.clip.clip_id, row.source.start_s, row.source.plan, row.label) for row in split]
            for split in (self.train, self.val)
        ]
        return digest("pretrain", _VERSION, self.network.name, weights, settings, self.params.seed, stage, rows)

    @property
    def progress(self) -> Path:
        """What an interrupted training goes on from."""
        return self.folder / f"{self.modality}.progress.safetensors"


def run_pretrain(workspace: Workspace, params: Params) -> list[Pretrained]:
    """The trained backbones, none where no one asks; writes their weights (safetensors) and pretrain.json."""
    wanted = {m: found for m in MODALITIES if (found := getattr(params.pretrain, m)) is not None}
    sources = window_sources(workspace, params) if wanted else []
    folder = workspace.pretrain
    entries = {entry.modality: entry for entry in _finished(folder)}
    for modality, network in wanted.items():
        work = _work(modality, network, sources, params, folder)
        if modality not in entries or entries[modality].key != work.key:
            entries[modality] = _train(work)
            _write(folder, params, entries.values())
        work.progress.unlink(missing_ok=True)
    trained = [entries[modality] for modality in wanted]
    _write(folder, params, trained)
    stale = set(folder.glob("*.safetensors")) | set(folder.glob(".*.tmp"))  # of other parameters, of a killed run
    for path in stale - {folder / entry.weights for entry in trained}:
        path.unlink()
    return trained


def _finished(folder: Path) -> Iterator[Pretrained]:
    """The entries whose weights are there as they were written."""
    try:
        entries = json.loads((folder / "pretrain.json").read_text(encoding="utf-8"))["entries"]
    except FileNotFoundError:
        return
    for entry in entries:
        path = folder / entry["weights"]
        if path.exists() and file_sha256(path) == entry.get("weights_file_sha256"):  # older versions wrote none
            yield Pretrained(**entry)


def _write(folder: Path, params: Params, entries: Iterable[Pretrained]) -> None:
    content = {"params": params.pretrain.model_dump(mode="json"), "entries": [asdict(entry) for entry in entries]}
    write_json(folder / "pretrain.json", content)


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any] | None = None) -> None:
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(flat, {"facts": json.dumps(facts)} if facts else None))


def _work(
    modality: Modality, network: NetworkParams, sources: Sequence[WindowSource], params: Params, folder: Path
) -> _Work:
    if ":" in network.name and not network.name.startswith(("hf-hub:", "local-dir:")):
        raise PretrainError(
            f"pretrain.{modality}: {network.name} is not timm's; only timm networks can be trained here"
        )
    train, val = (_labelled(sources, modality, split) for split in ("train", "val"))
    return _Work(modality, network, train, val, params, folder)


def _train(work: _Work) -> Pretrained:
    params, windows = work.params, len(work.train) + len(work.val)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(params.seed)
        trainer = _Trainer(work.modality, work.network, params.pretrain, device_of(params.compute), len(work.train))
        start = {"weights": work.network.weights, "weights_sha256": weights_sha256(trainer.net)}
        course = _Course(torch.Generator().manual_seed(params.seed))
        course.resume(work, trainer)
        total, done = params.pretrain.epochs * windows, len(course.curves) * windows
        with progress_bar(f"pretrain {work.modality}", total=total, unit="windows", done=done) as advance:
            while len(course.curves) < params.pretrain.epochs:
                course.epoch(work, trainer, advance)
    weights = work.folder / f"{work.modality}.safetensors"
    _write_tensors(weights, course.best)
    row = course.curves[course.best_epoch]
    return Pretrained(
        work.modality, work.network.name, work.key, start, weights.name, file_sha256(weights), course.best_epoch,
        row["val_auc"], course.curves,
    )  # fmt: skip


class _Course:
    """How far a training is: its curves, the order of its rows, and its best epoch.

    The best epoch has the highest AUC on val, of equal ones the lowest loss.
    """

    def __init__(self, order: torch.Generator) -> None:
        self.order = order
        self.curves: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best: dict[str, torch.Tensor] = {}

    def epoch(self, work: _Work, trainer: _Trainer, advance: Callable[[int], None]) -> None:
        """One more pass over train and val, kept on disk."""
        epoch = len(self.curves)
        shuffled = [work.train[i] for i in torch.randperm(len(work.train), generator=self.order).tolist()]
        train_loss = trainer.fit(shuffled, advance)
        val_loss, val_auc = trainer.judge(work.val, advance)
        if not math.isfinite(train_loss) or not math.isfinite(val_loss):
            raise PretrainError(
                f"pretrain: the loss is no longer finite in epoch {epoch}; lower pretrain.learning_rate "
                f"({work.params.pretrain.learning_rate:g})"
            )
        self.curves.append({"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "val_auc": val_auc})
        best = max(self.curves, key=lambda row: (row["val_auc"], -row["val_loss"], -row["epoch"]))
        if best["epoch"] == epoch:
            self.best_epoch, self.best = epoch, trainer.state()
        self._keep(work, trainer)

    def _keep(self, work: _Work, trainer: _Trainer) -> None:
        tensors, facts = trainer.snapshot()
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors["order"] = self.order.get_state()
        facts |= {"key": work.key, "curves": self.curves, "best_epoch": self.best_epoch}
        _write_tensors(work.progress, tensors, facts)

    def resume(self, work: _Work, trainer: _Trainer) -> None:
        """Goes where an interrupted training of the same key was, on the same kind of device."""
        try:
            with safetensors.safe_open(work.progress, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (FileNotFoundError, safetensors.SafetensorError):  # none, or damaged: from the beginning
            return
        if (facts["key"], facts["device"]) == (work.key, trainer.device):
            trainer.restore(tensors, facts)
            self.order.set_state(tensors["order"])
            self.curves, self.best_epoch = facts["curves"], facts["best_epoch"]
            self.best = _named(tensors, "best.")


def _named(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class _Trainer:
    """A timm network with one output, its optimiser, and what a batch is for it."""

    def __init__(
        self, modality: Modality, network: NetworkParams, params: PretrainParams, device: str, n_train: int
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

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """(tensors, plain JSON): all that the next step depends on."""
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": tensor for name, tensor in state.items()}
        tensors["random"] = torch.get_rng_state()
        if self.device == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        rate = self.optimiser.param_groups[0]["lr"]
        return tensors, {"device": self.device, "learning_rate": rate, "schedule": self.schedule.state_dict()}

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """The opposite of `snapshot`."""
        self.net.load_state_dict(_named(tensors, "net."))
        for i, parameter in enumerate(self.net.parameters()):
            state = _named(tensors, f"optimiser.{i}.")
            # As Adam makes them: in another order in memory, sums might be rounded otherwise.
            moments = {n: torch.empty_like(parameter).copy_(x) for n, x in state.items() if n != "step"}
            self.optimiser.state[parameter] = {"step": state["step"], **moments}
        self.optimiser.param_groups[0]["lr"] = facts["learning_rate"]
        self.schedule.load_state_dict(facts["schedule"])
        torch.set_rng_state(tensors["random"])
        if self.device == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"])

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
