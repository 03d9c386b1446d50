"""The command `bmnas`: one subcommand per stage. Exit code 0: done, 1: the work failed, 2: wrong usage."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.predict import Prediction
    from pipeline.workspace import Workspace

# OpenMP threads that spin while they wait for one another make torch five times slower as soon as any other process
# wants a core. Must be set before torch is imported; Dask workers inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Each command imports its stage itself: `bmnas --help` would otherwise wait two seconds for torch.

app = typer.Typer(
    name="bmnas",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Search and train audio-visual deepfake detectors over a feature cache that is computed once.\n\n"
        "Each command is one stage; [bold]dvc repro[/bold] runs them all, in order, as far as something changed:\n\n"
        "synth → manifest → spectrograms → faces → (pretrain) → features → search → retrain → evaluate → report"
    ),
)

console = Console(stderr=True)

ParamsFile = Annotated[Path, typer.Option("--params", help="the parameters of every stage", metavar="FILE")]
Work = Annotated[Path, typer.Option("--work", help="folder of all results", metavar="FOLDER")]
Scheduler = Annotated[
    str,
    typer.Option("--scheduler", help="address of a running Dask scheduler; else workers start here", metavar="ADDRESS"),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="worker processes on this machine; 0: one per core, 1: this process"),
]
PARAMS, WORK = Path("params.yaml"), Path("work")


def _setup(params_file: Path, work: Path, scheduler: str = "", workers: int | None = None) -> tuple[Workspace, Params]:
    from pipeline.params import load_params
    from pipeline.workspace import Workspace

    params = load_params(params_file)
    chosen = {"scheduler": scheduler} if scheduler else {}
    update = chosen if workers is None else {**chosen, "workers": workers}
    compute = params.compute.model_copy(update=update)
    return Workspace(work), params.model_copy(update={"compute": compute})


@app.command(epilog="Example: [bold]bmnas synth[/bold]   (16 people, 128 clips, into data/synth)")
def synth(
    params: ParamsFile = PARAMS,
    root: Annotated[Path, typer.Option(help="where the clips go", metavar="FOLDER")] = Path("data/synth"),
) -> None:
    """Draw the built-in data set: talking heads and four kinds of fakes.

    Clips that exist already are kept. It lets everything run anywhere; accuracy on it is no evidence.
    """
    from pipeline.params import load_params
    from pipeline.synth import generate
    from pipeline.workers import progress_bar

    settings = load_params(params)
    total = settings.synth.identities * settings.synth.clips_per_identity
    finished = 0
    with progress_bar("synth", total=total, unit="clips") as advance:

        def progress(done: int, _total: int) -> None:
            nonlocal finished
            advance(done - finished)
            finished = done

        manifest_file = generate(
            root,
            identities=settings.synth.identities,
            clips_per_identity=settings.synth.clips_per_identity,
            difficulty=settings.synth.difficulty,
            seed=settings.seed,
            jobs=settings.compute.workers or None,
            progress=progress,
        )
    console.print(f"synth: {total} clips listed in {manifest_file}")


@app.command(epilog="Example: [bold]bmnas manifest[/bold]   (data.root and data.layout are in params.yaml)")
def manifest(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    layout: Annotated[
        str, typer.Option(help="synth | csv | fakeavceleb, in place of data.layout", metavar="LAYOUT")
    ] = "",
    root: Annotated[str, typer.Option(help="folder of the clips, in place of data.root", metavar="FOLDER")] = "",
) -> None:
    """List a data set's clips with their labels, and split them by subject."""
    from pipeline.manifest import build_manifest
    from pipeline.params import parse_params

    workspace, settings = _setup(params, work)
    given = {"layout": layout, "root": root}
    content = settings.model_dump()
    content["data"] |= {key: value for key, value in given.items() if value}
    settings = parse_params(content, source="command line")
    clips = build_manifest(workspace, settings)
    table = Table("split", "clips", "real", "fake", "subjects", title=f"{len(clips)} clips in {workspace.manifest}")
    for split in ("train", "val", "test"):
        chosen = [clip for clip in clips if clip.split == split]
        fake = sum(clip.label for clip in chosen)
        subjects = len({clip.subject_id for clip in chosen})
        table.add_row(split, str(len(chosen)), str(len(chosen) - fake), str(fake), str(subjects))
    console.print(table)


@app.command(epilog="Example: [bold]bmnas spectrograms --workers 4[/bold]")
def spectrograms(
    params: ParamsFile = PARAMS, work: Work = WORK, scheduler: Scheduler = "", workers: Workers = None
) -> None:
    """Cut every clip into windows and turn their sound into spectrograms.

    Clips that are done are not done again; clips that cannot be used go to the quarantine list.
    """
    from pipeline.spectrograms import build_spectrograms

    build_spectrograms(*_setup(params, work, scheduler, workers))


@app.command(epilog="Example: [bold]bmnas faces --scheduler tcp://10.0.0.1:8786[/bold]")
def faces(params: ParamsFile = PARAMS, work: Work = WORK, scheduler: Scheduler = "", workers: Workers = None) -> None:
    """Find and follow the face in every window, and cut aligned crops.

    Clips that are done are not done again; clips without a face go to the quarantine list.
    """
    from pipeline.faces import build_faces

    build_faces(*_setup(params, work, scheduler, workers))


@app.command(
    epilog="Example: [bold]bmnas pretrain[/bold]   (with `pretrain: {visual: {name: resnet34}}` in params.yaml)"
)
def pretrain(params: ParamsFile = PARAMS, work: Work = WORK) -> None:
    """Train backbones on one modality each, before they are frozen. Does nothing unless params.yaml asks for it.

    Uses the train split's crops or spectrograms; validation picks the epoch, the test split is not read.
    """
    from pipeline.pretrain import run_pretrain

    trained = run_pretrain(*_setup(params, work))
    for entry in trained:
        console.print(
            f"pretrain: {entry.name}, val AUC {entry.val_auc:.3f} in epoch {entry.best_epoch}; to use it, give "
            f"features.{entry.modality} name: {entry.name} and weights: file:{work / 'pretrain' / entry.weights}",
            soft_wrap=True,
        )
    if not trained:
        console.print("pretrain: nothing to do: pretrain.visual and pretrain.audio are null in the parameters")


@app.command(epilog="Example: [bold]bmnas features[/bold]   (backbones and weights are in params.yaml)")
def features(
    params: ParamsFile = PARAMS, work: Work = WORK, scheduler: Scheduler = "", workers: Workers = None
) -> None:
    """Run the frozen backbones once over every window, into the feature cache.

    Rows that are in the cache are not computed again; those of other backbones or windows lie beside them.
    """
    from pipeline.features import build_features

    build_features(*_setup(params, work, scheduler, workers))


@app.command(epilog="Example: [bold]bmnas search[/bold]   (temperature, samples, seeds are in params.yaml)")
def search(params: ParamsFile = PARAMS, work: Work = WORK) -> None:
    """Search the fusion architecture over the feature cache, once per seed.

    The same search runs on the picture alone and on the sound alone: the references that fusion must beat.
    """
    from pipeline.search import run_search

    run = run_search(*_setup(params, work))
    console.print(f"search: {len(run.entries)} genotypes in {work / 'search' / 'search.json'}")


@app.command(epilog="Example: [bold]bmnas retrain[/bold]")
def retrain(params: ParamsFile = PARAMS, work: Work = WORK) -> None:
    """Train every found architecture from scratch; validation picks the epoch, the test split is not read."""
    from pipeline.retrain import run_retrain

    run = run_retrain(*_setup(params, work))
    console.print(f"retrain: {len(run.entries)} networks in {work / 'retrain'}")


@app.command(epilog="Example: [bold]bmnas evaluate[/bold]")
def evaluate(params: ParamsFile = PARAMS, work: Work = WORK) -> None:
    """Score the test split once: AUC, EER and more, per window, clip, category and method."""
    from pipeline.evaluate import evaluate as run
    from pipeline.evaluate import print_metrics
    from pipeline.workers import device_of

    workspace, settings = _setup(params, work)
    print_metrics(run(workspace, settings, device=device_of(settings.compute)), Console())


@app.command(epilog="Example: [bold]bmnas report[/bold]   (then open work/report/report.html)")
def report(params: ParamsFile = PARAMS, work: Work = WORK) -> None:
    """Write one HTML file: numbers, curves, the found architecture, and what was left out and why."""
    from pipeline.evaluate import print_metrics, read_metrics
    from pipeline.report import build_report

    workspace, settings = _setup(params, work)
    path = build_report(workspace, settings)
    print_metrics(read_metrics(workspace), Console())
    Console().print(f"report: {path.resolve()}", soft_wrap=True)


@app.command(epilog="Example: [bold]bmnas predict interview.mp4 --json[/bold]")
def predict(
    videos: Annotated[list[Path], typer.Argument(help="media files", metavar="VIDEO...")],
    work: Work = WORK,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    scheduler: Scheduler = "",
    workers: Workers = None,
) -> None:
    """Score new files with a trained run: P(fake) per file and per window.

    The run remembers its own parameters. Exit code 1 when a file cannot be scored.
    """
    from pipeline.params import ComputeParams
    from pipeline.predict import predict as run
    from pipeline.workspace import Workspace

    # One file in this process is done before a worker has started.
    count = workers if workers is not None else int(len(videos) < 4)
    predictions = run(Workspace(work), videos, ComputeParams(scheduler=scheduler, workers=count))
    if as_json:
        print(json.dumps([prediction.as_json() for prediction in predictions], indent=2))
    else:
        _print_predictions(predictions)
    if any(prediction.score is None for prediction in predictions):
        raise typer.Exit(1)


cache_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Look after the feature cache: what is in it, is it whole."
)
app.add_typer(cache_app, name="cache")
CachePath = Annotated[Path, typer.Argument(help="the feature cache", metavar="CACHE")]
CACHE = WORK / "features.zarr"


@cache_app.command("info", epilog="Example: [bold]bmnas cache info work/features.zarr[/bold]")
def cache_info(cache: CachePath = CACHE) -> None:
    """Print every backbone's rows: how many there are, how many the index uses, shards and bytes."""
    from cache_schemas.features.upkeep import summarise

    table = Table("backbone", "layers", "rows", "in use", "shards", "MB", title=str(cache))
    for entry in summarise(cache):
        layers = str(len(entry.variant.layers))
        counts = (str(entry.rows), str(entry.used), str(entry.shards), f"{entry.bytes / 1e6:.1f}")
        table.add_row(escape(entry.variant.path), layers, *counts)
    Console().print(table)


@cache_app.command("verify", epilog="Example: [bold]bmnas cache verify --drop[/bold]   (then bmnas features)")
def cache_verify(
    cache: CachePath = CACHE,
    drop: Annotated[bool, typer.Option("--drop", help="forget what is damaged, so that it is computed again")] = False,
) -> None:
    """Check every byte of every shard, the schema and the index. Exit code 1 when something is wrong."""
    from cache_schemas.features.upkeep import drop as forget
    from cache_schemas.features.upkeep import summarise, verify
    from pipeline.workers import progress_bar

    with progress_bar("verify", total=sum(entry.shards for entry in summarise(cache)), unit="shards") as advance:
        found = verify(cache, advance)
    for problem in found.problems:
        Console().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
    console.print(f"verify: {found.shards} shards, {found.bytes / 1e6:.1f} MB, {len(found.problems)} problems")
    if found.problems and drop:
        forget(cache, found.damaged)
        console.print("dropped: run `bmnas features` to compute again what is missing")
    if found.problems:
        raise typer.Exit(1)


@cache_app.command("gc", epilog="Example: [bold]bmnas cache gc[/bold]")
def cache_gc(cache: CachePath = CACHE) -> None:
    """Give back what the index does not use: rows of removed clips, of other backbones and other parameters."""
    from cache_schemas.features.upkeep import collect_garbage

    console.print(f"gc: {collect_garbage(cache) / 1e6:.1f} MB given back")


@cache_app.command(
    "merge", epilog="Example: [bold]bmnas cache merge work/features.zarr /mnt/other/features.zarr[/bold]"
)
def cache_merge(
    cache: CachePath, source: Annotated[Path, typer.Argument(help="taken from; stays as it is", metavar="SOURCE")]
) -> None:
    """Take from another cache what this one lacks: two machines that computed different parts."""
    from cache_schemas.features.upkeep import merge

    for variant, rows in merge(cache, source).items():
        console.print(f"merge: {rows} rows of {variant}")


@cache_app.command("stats", epilog="Example: [bold]bmnas cache stats[/bold]")
def cache_stats(cache: CachePath = CACHE) -> None:
    """Print each layer's mean, spread, range and dead channels, out of core."""
    from cache_schemas.features import FeatureCache
    from cache_schemas.features.upkeep import layer_statistics
    from pipeline.workers import progress_bar

    opened = FeatureCache.open(cache)
    table = Table("layer", "channels", "mean", "std", "min", "max", "dead channels")
    with progress_bar("stats", total=len(opened.layers), unit="layers") as advance:
        for row in layer_statistics(opened):
            numbers = [f"{row[name]:.4g}" for name in ("mean", "std", "min", "max")]
            table.add_row(row["layer"], str(row["channels"]), *numbers, str(row["dead"]))
            advance(1)
    Console().print(table)


def _print_predictions(predictions: list[Prediction]) -> None:
    table = Table("file", "P(fake)", "per window (start s: P)")
    for prediction in predictions:
        if prediction.score is None:
            table.add_row(escape(prediction.path), "-", escape(prediction.reason))
        else:
            windows = "  ".join(f"{window.start_s:g}: {window.score:.3f}" for window in prediction.windows)
            table.add_row(escape(prediction.path), f"{prediction.score:.3f}", windows)
    Console().print(table)


def main() -> None:
    """Runs the command line. Errors that our packages raise are for people: one message, no traceback."""
    try:
        app()
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in ("pipeline", "nas", "cache_schemas")
        if not ours and not isinstance(error, OSError):
            raise
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(2 if type(error).__name__ == "ParamsError" else 1)
