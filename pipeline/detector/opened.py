"""A bundle in use: unpacked into a private folder, where it is a workspace like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from cache_schemas.bundle import Bundle, unpack_bundle
from cache_schemas.evidence import write_evidence
from cache_schemas.run import RetrainEntry, RetrainRun, read_run, write_run
from cache_schemas.stored_zip import BundleError, refused
from pipeline.backbones import BackboneError, Modality
from pipeline.detector.road import DetectorError
from pipeline.features.forward import MODALITIES
from pipeline.params import BackboneParams, Params, parse_params
from pipeline.runs.kept import kept_evidence, retrained_digest
from pipeline.workspace import Workspace

_NAMED_HERE = frozenset({"", "torchvision", "facenet", "torchaudio", "inflated"})
"""What may stand before the colon of a bundled backbone's name: what is found by name alone, and is no code."""

_MOST_NUMBERS = 2**28
"""Of a window's spectrogram; by default it has 2**17.6."""


@contextmanager
def open_bundle(path: Path, *, public_key: bytes | None = None, download: bool = False) -> Iterator[Workspace]:
    """The detector, as a workspace in a folder that only this user can read and that is gone afterwards.

    public_key: its owner must have signed it; download: weights of backbones may be fetched from their publishers.
    Raises BundleError for whatever is not as it must be, before anything of it is used; and for what is raised inside
    because a backbone cannot be had, with how to get it.
    """
    with TemporaryDirectory(prefix="bmnas-detector-") as folder:
        workspace = Workspace(Path(folder))
        bundle = unpack_bundle(path, workspace.root, public_key=public_key)
        params = check_detector(path, bundle, workspace)
        if not download and _by_torch(workspace):
            _check_weights_here(path, params)
        try:
            yield workspace
        except (BackboneError, DetectorError) as error:
            raise BundleError(f"{path}: {error}\n{_told(bundle)}") from error


def _by_torch(workspace: Workspace) -> bool:
    """Whether torch is to run it, and can; where it is not installed, nobody gets past `load_parts`."""
    return not workspace.graphs.is_dir() and find_spec("torch") is not None


def _check_weights_here(path: Path, params: Params) -> None:
    """Raises BundleError where weights would have to be downloaded: a bundle must not choose whom this machine asks."""
    wanted = [(modality, of.name) for modality, _, of in backbones_of(params) if of.weights == "hub"]
    if not wanted:
        return
    from pipeline.backbones.known import named  # noqa: PLC0415 - only what torch runs

    for modality, name in wanted:
        found = named(name, hub=True)
        if found is None or found.weights != "here":
            licence = found.licence if found else "not said"
            raise BundleError(
                f"{path}: features.{modality}: the weights of {name} are not on this machine; licence: {licence}: let "
                "them be downloaded from their publisher by `bmnas predict --download`, once (Detector.load has "
                "download=True), or ask whoever made it for a bundle that has them (`bmnas bundle --onnx`)"
            )


def _told(bundle: Bundle) -> str:
    """Its backbones and how to get their weights, a line each."""
    return "\n".join(
        f"The bundle needs {of.name} for {of.modality}, weights {of.weights} (SHA-256 {of.weights_sha256}): {of.how}"
        for of in bundle.manifest.backbones
    )


def backbones_of(params: Params) -> Iterator[tuple[Modality, int, BackboneParams]]:
    """(modality, place in its list, parameters) of each backbone."""
    for modality in MODALITIES:
        for i, backbone in enumerate(getattr(params.features, modality)):
            yield modality, i, backbone


def weights_place(modality: str, i: int) -> str:
    """Where the weights of a backbone lie in a bundle, if they are a file."""
    return f"backbones/{modality}-{i}.safetensors"


def check_names(params: Params, path: Path) -> None:
    """Raises BundleError where a backbone is code, or is found by an address: a bundle must not choose what runs."""
    for modality, _, backbone in backbones_of(params):
        prefix, colon, _ = backbone.name.partition(":")
        if (prefix if colon else "") not in _NAMED_HERE:
            raise refused(
                path, f"features.{modality}", f"backbone {backbone.name}", "in a bundle, those that bmnas finds by "
                "their names: timm's, torchvision's, torchaudio's, distillmos, smart-turn",
                "such a detector is used from its folder: `bmnas predict --work`",
            )  # fmt: skip


def identity_of(run: RetrainRun, modality: str, name: str) -> Any:
    """What the networks were trained on under that name."""
    (found,) = (of for path, of in run.backbones.items() if path.startswith(modality) and of["name"] == name)
    return found


def _check_said(bundle: Bundle, run: RetrainRun, params: Params) -> None:
    """Raises ValueError where bundle.json, which is what people are shown, says otherwise than what is used."""
    said, seeds = bundle.manifest, [(entry.network, entry.seed) for entry in run.entries]
    described = [(of.modality, of.name, of.weights, of.weights_sha256) for of in said.backbones]
    used = [
        (m, of.name, of.weights, identity_of(run, m, of.name)["weights_sha256"]) for m, _, of in backbones_of(params)
    ]
    for what, one, other in (
        ("networks", sorted((name, seed) for name, of in said.networks.items() for seed in of), sorted(seeds)),
        ("backbones", described, used),
    ):
        if one != other:
            raise ValueError(f"bundle.json and retrain.json differ: {what} {one}, {other}")


def check_detector(path: Path, bundle: Bundle, workspace: Workspace) -> Params:
    """Its parameters, with whole paths of weights, which are written, too.

    Raises BundleError where what was unpacked is not what `predict` takes.
    """
    source = workspace.retrain / "retrain.json"
    try:
        run = read_run(source, RetrainRun)
        params = parse_params(run.params, source=source.name)
        check_names(params, path)
        hops = params.windows.window_s / params.spectrograms.hop_s
        if hops * params.spectrograms.n_fft > _MOST_NUMBERS:
            raise ValueError(f"retrain.json: spectrograms of {hops:.0f} hops and {params.spectrograms.n_fft} points")
        evidence, _ = kept_evidence(workspace)
        if _by_torch(workspace):
            for entry in run.entries:
                _check_network(workspace, entry, params.features.length)
        placed: dict[str, tuple[BackboneParams, ...]] = {
            modality: tuple(_placed(workspace, m, i, of) for m, i, of in backbones_of(params) if m == modality)
            for modality in MODALITIES
        }
        _check_said(bundle, run, params)
    except BundleError:
        raise
    except Exception as error:  # somebody else wrote it: it can be wrong in any way
        said = str(error).replace(f"{workspace.root}/", "")
        raise refused(path, "what lies in it", said, "a detector as `bmnas bundle` writes it") from error
    if any(of.weights.startswith("file:") for _, _, of in backbones_of(params)):
        features = params.features.model_copy(update=placed)
        params = params.model_copy(update={"features": features})
        write_run(source, run.model_copy(update={"params": params.model_dump(mode="json")}))
        write_evidence(workspace.evaluate, evidence.model_copy(update={"retrained": retrained_digest(workspace)}))
    return params


def _placed(workspace: Workspace, modality: str, i: int, backbone: BackboneParams) -> BackboneParams:
    """With the whole path of its weights where they are a file: that of the bundle, whatever file it names."""
    if not backbone.weights.startswith("file:"):
        return backbone
    whole = workspace.root / weights_place(modality, i)
    if not whole.exists():
        raise ValueError(f"features.{modality}: weights {backbone.weights}: a bundle has them in {whole}")
    return backbone.model_copy(update={"weights": f"file:{whole}"})


def _check_network(workspace: Workspace, entry: RetrainEntry, length: int) -> None:
    """Raises ValueError where the weights' file does not hold the network that the entry describes."""
    import torch  # noqa: PLC0415 - only what torch runs

    import nas  # noqa: PLC0415

    with torch.device("meta"):  # of any size that it claims, without its memory
        network = nas.CompactNetwork.from_spec(entry.spec)
    if nas.Genotype.model_validate(entry.genotype) != network.genotype or network.length != length:
        raise ValueError(f"retrain.json: {entry.network}, seed {entry.seed}: genotype, spec and params differ")
    wanted = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    with safe_open(workspace.retrain / entry.weights, "pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"retrain/{entry.weights}: {name} is {found.get(name)}, retrain.json needs {wanted.get(name)}"
            )
