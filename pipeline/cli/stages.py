"""The stages as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from pipeline.cli.options import (
    PARAMS,
    WORK,
    ParamsFile,
    Prune,
    Retry,
    Scheduler,
    Store,
    Work,
    Workers,
    console,
    setup,
    wide,
)

if TYPE_CHECKING:
    from cache_schemas.run import RetrainRun, SearchRun

app = typer.Typer()

_SHOWN = 50  # numbers that differ


@app.command(epilog="Example: [bold]bmnas synth[/bold]   (16 people, 128 clips, into data/synth)")
def synth(
    params: ParamsFile = PARAMS,
    root: Annotated[Path, typer.Option(help="where the clips go", metavar="FOLDER")] = Path("data/synth"),
) -> None:
    """Draw the built-in data set: talking heads and four kinds of fakes.

    Clips that exist already are kept. It lets everything run anywhere; accuracy on it is no evidence.
    """
    from pipeline.compute.progress import progress_bar
    from pipeline.params import load_params
    from pipeline.synth import generate

    settings = load_params(params)
    total = settings.synth.identities * settings.synth.clips_per_identity
    with progress_bar("synth", total=total, unit="clips") as advance:
        manifest_file = generate(
            root,
            **settings.synth.model_dump(),
            seed=settings.seed,
            jobs=settings.compute.workers or None,
            progress=advance,
        )
    console.print(f"synth: {total} clips listed in {escape(str(manifest_file))}")


@app.command(epilog="Example: [bold]bmnas manifest --layout lav-df --root /data/LAV-DF --split official --check[/bold]")
def manifest(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    layout: Annotated[
        str,
        typer.Option(
            help="synth | csv | folders (real/ and fake/) | fakeavceleb | swan-df | lav-df | av-deepfake1m | dfdc, in "
            "place of data.layout",
            metavar="LAYOUT",
        ),
    ] = "",
    root: Annotated[str, typer.Option(help="folder of the clips, in place of data.root", metavar="FOLDER")] = "",
    split: Annotated[
        str,
        typer.Option(help="subject | people | official (the data set's own), in place of split.kind", metavar="KIND"),
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="measure the clips and print what to know before using them")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --check: print JSON instead of tables")] = False,
    workers: Workers = None,
) -> None:
    """List a data set's clips with their labels, and split them so that nobody is in two splits.

    --split people deals people out, as many of each group, and leaves out clips with people of two splits; it says
    what that costs. Official splits are kept as they are; people who stand in two of them are reported. --check also
    writes WORK/check/manifest.json; what it measured of a clip it does not measure again.
    """
    from cache_schemas.manifest import read_unused
    from pipeline.manifest.build import build_manifest
    from pipeline.manifest.check import check_manifest
    from pipeline.manifest.show import print_check, print_splits
    from pipeline.params import parse_params

    workspace, settings = setup(params, work, workers=workers)
    content = settings.model_dump()
    content["data"] |= {key: value for key, value in {"layout": layout, "root": root}.items() if value}
    content["split"] |= {"kind": split} if split else {}
    settings = parse_params(content, source="command line")
    clips = build_manifest(workspace, settings)
    if not check:
        print_splits(clips, read_unused(workspace.unused), str(workspace.manifest), console)
        return
    result = check_manifest(workspace, settings)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print_check(result, Console())
    console.print(f"check: all of it is in {escape(str(workspace.check / 'manifest.json'))}")


@app.command(epilog="Example: [bold]bmnas spectrograms --workers 4[/bold]")
def spectrograms(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    scheduler: Scheduler = "",
    store: Store = "",
    workers: Workers = None,
    retry: Retry = False,
    prune: Prune = False,
) -> None:
    """Cut every clip into windows and turn their sound into spectrograms.

    Clips that are done are not done again; clips that cannot be used go to the quarantine list. Those that failed for
    what may pass (a disk, a time-out, memory) are tried again in every run.
    """
    from pipeline.sound.stage import build_spectrograms

    build_spectrograms(*setup(params, work, scheduler, workers, store), retry=retry, prune=prune)


@app.command(epilog="Example: [bold]bmnas faces --contact-sheets work/sheets[/bold]   (then look and listen)")
def faces(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    scheduler: Scheduler = "",
    store: Store = "",
    workers: Workers = None,
    contact_sheets: Annotated[
        Path | None,
        typer.Option(
            help="also show what was found, per clip: a PNG of crops and boxes, an mp4 of the crops with their sound",
            metavar="FOLDER",
        ),
    ] = None,
    retry: Retry = False,
    prune: Prune = False,
) -> None:
    """Find and follow the faces in every window, and cut crops of one person in each.

    Clips that are done are not done again; clips without a face go to the quarantine list. Those that failed for what
    may pass (a disk, a time-out, memory) are tried again in every run.
    """
    from pipeline.faces.stage import build_faces

    workspace, settings = setup(params, work, scheduler, workers, store)
    build_faces(workspace, settings, retry=retry, prune=prune)
    if contact_sheets:
        from pipeline.faces.contact_sheets import write_contact_sheets

        count = write_contact_sheets(contact_sheets, workspace, settings)
        console.print(f"faces: {count} contact sheets in {escape(str(contact_sheets))}")


@app.command(
    epilog="Example: [bold]bmnas pretrain[/bold]   (with `pretrain: {visual: {name: resnet34}}` in params.yaml)"
)
def pretrain(params: ParamsFile = PARAMS, work: Work = WORK) -> None:
    """Train backbones on one modality each, before they are frozen. Does nothing unless params.yaml asks for it.

    Uses the train split's crops or spectrograms; validation picks the epoch, the test split is not read.
    """
    from pipeline.features.pretrain import run_pretrain

    trained = run_pretrain(*setup(params, work))
    for entry in trained:
        console.print(
            f"pretrain: {entry.name}, val AUC {entry.val_auc:.3f} in epoch {entry.best_epoch}; to use it, give "
            f"features.{entry.modality} name: {entry.name} and weights: "
            f"file:{escape(str(work / 'pretrain' / entry.weights))}",
        )
    if not trained:
        console.print("pretrain: nothing to do: pretrain.visual and pretrain.audio are null in the parameters")


@app.command(epilog="Example: [bold]bmnas features[/bold]   (backbones and weights are in params.yaml)")
def features(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    scheduler: Scheduler = "",
    store: Store = "",
    workers: Workers = None,
) -> None:
    """Run the frozen backbones once over every window, into the feature cache.

    Rows that are in the cache are not computed again; those of other backbones or windows lie beside them.
    """
    from pipeline.features.stage import build_features

    build_features(*setup(params, work, scheduler, workers, store))


@app.command(epilog="Example: [bold]bmnas search[/bold]   (temperature, samples, seeds are in params.yaml)")
def search(params: ParamsFile = PARAMS, work: Work = WORK, scheduler: Scheduler = "", workers: Workers = None) -> None:
    """Search the fusion architecture over the feature cache, once per seed.

    The same search runs on the picture alone and on the sound alone: the references that fusion must beat. A search
    that fails is named, and the others go on. What is finished is kept in work/runs: a killed search goes on where it
    was.
    """
    from pipeline.runs.search import run_search

    run = run_search(*setup(params, work, scheduler, workers))
    _print_failed("search", run)
    for entry in run.entries:
        for warning in entry.warnings:
            console.print(f"search: warning: {entry.network}, {escape(warning)}")
    found = sum(len(entry.members) for entry in run.entries)
    console.print(f"search: {found} genotypes in {escape(str(work / 'search' / 'search.json'))}")


@app.command(epilog="Example: [bold]bmnas retrain[/bold]")
def retrain(params: ParamsFile = PARAMS, work: Work = WORK, scheduler: Scheduler = "", workers: Workers = None) -> None:
    """Train every found architecture from scratch; validation picks the epoch, the test split is not read.

    What is finished is kept in work/runs: a killed run goes on where it was.
    """
    from pipeline.runs.retrain import run_retrain

    run = run_retrain(*setup(params, work, scheduler, workers))
    _print_failed("retrain", run)
    console.print(f"retrain: {len(run.entries)} networks in {escape(str(work / 'retrain'))}")


def _print_failed(stage: str, run: SearchRun | RetrainRun) -> None:
    for failed in run.failed:
        console.print(f"[yellow]{stage}: failed: {failed.name}, {escape(failed.reason)}", soft_wrap=True)


@app.command(epilog="Example: [bold]bmnas evaluate[/bold]")
def evaluate(params: ParamsFile = PARAMS, work: Work = WORK) -> None:
    """Score the test split once: AUC, EER and more, per window, clip, category and method.

    Beside the networks stand controls: what the files' properties, other probes and random weights come to on the same
    clips. An audit names what makes figures look better than they are. Every look at a test split is counted. Writes
    WORK/evaluate: scores.csv, clips.csv and metrics.json (all numbers, which `bmnas recompute` derives again), and
    evidence.json, by which `bmnas predict` knows when it cannot tell.
    """
    from pipeline.compute.machine import device_of
    from pipeline.features.shown import shown_and_heard
    from pipeline.runs.evaluate import evaluate as run
    from pipeline.runs.evaluate import print_metrics
    from pipeline.runs.worth import kept_first

    workspace, settings = setup(params, work)
    shown = shown_and_heard(workspace, settings)
    result = run(workspace, settings, device=device_of(settings.compute), shown=shown)
    print_metrics(result, kept_first(workspace), wide())


@app.command(epilog="Example: [bold]bmnas report[/bold]   (then open work/report/report.html)")
def report(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    faces: Annotated[
        bool, typer.Option("--faces/--no-faces", help="show faces and spectrograms of the worst errors")
    ] = True,
) -> None:
    """Write one HTML file: numbers, curves, the found architecture, and what was left out and why.

    Beside it: the tables that every figure comes from, a model card and a data card. Faces are people's: --no-faces for
    a page that goes where the recordings may not.
    """
    from cache_schemas.metrics import read_metrics
    from pipeline.report.stage import build_report
    from pipeline.runs.evaluate import print_metrics
    from pipeline.runs.worth import kept_first

    workspace, settings = setup(params, work)
    path = build_report(workspace, settings, faces=faces)
    print_metrics(read_metrics(workspace.evaluate), kept_first(workspace), wide())
    Console().print(f"report: {escape(str(path.resolve()))}", soft_wrap=True)


@app.command(epilog="Example: [bold]bmnas compare work ../other/work[/bold]   (then open comparison.html)")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="workspaces, or folders of reports", metavar="WORK WORK...")],
    out: Annotated[Path, typer.Option(help="the page; the same as JSON stands beside it", metavar="FILE")] = Path(
        "comparison.html"
    ),
) -> None:
    """Compare runs on the test clips that all of them share: paired differences of AUC, drawn over people.

    p values are Holm-adjusted over all pairs.
    """
    from pipeline.report.compare import verdict, write_comparison

    found = write_comparison(runs, out)
    Console().print(escape(verdict(found)), soft_wrap=True)
    Console().print(f"compare: {escape(str(out.resolve()))}", soft_wrap=True)


@app.command(epilog="Example: [bold]bmnas recompute work/report[/bold]")
def recompute(
    folder: Annotated[Path, typer.Argument(help="work/report, work/evaluate or work", metavar="FOLDER")],
) -> None:
    """Derive every number again from clips.csv and scores.csv alone: no media, no weights, no cache.

    The same for the protocols below the folder. Exit code 1 when a number is another one; each is named. So is what the
    tables do not hold: of the audit, people and files in two splits, epochs and training; how often somebody looked.
    """
    from pipeline.report.recompute import recompute as run

    found, out = run(folder), Console(soft_wrap=True, highlight=False)
    for each in found.different[:_SHOWN]:
        out.print(f"{each.place}: told {each.told}, derived {each.derived}", markup=False)
    if len(found.different) > _SHOWN:
        out.print(f"... and {len(found.different) - _SHOWN} more")
    if found.apart:
        out.print(f"not of these tables, so not compared: {'; '.join(found.apart)}", markup=False)
    if found.different:
        out.print(f"[red]recompute: {len(found.different)} values are not what the tables give[/]")
        raise typer.Exit(1)
    out.print(f"recompute: {found.numbers} numbers agree")
