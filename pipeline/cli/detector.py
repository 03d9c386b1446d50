"""`bmnas predict`, `bundle` and `export`: a trained detector, used and passed on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cache_schemas.paths import path_text, plain_text
from pipeline.cli.answers import csv_rows, json_lines, text
from pipeline.cli.options import WORK, Network, Scheduler, Work, Workers, console, number, wide

if TYPE_CHECKING:
    from pipeline.detector.predict import Show
    from pipeline.params import ComputeParams
    from pipeline.workspace import Workspace

app = typer.Typer()
bundles = typer.Typer(rich_markup_mode="rich")
app.add_typer(bundles, name="bundle")

Sealed = Annotated[
    Path | None, typer.Option("--bundle", help="a detector in one file, in place of --work", metavar="FILE")
]
Key = Annotated[
    Path | None,
    typer.Option("--key", help="the public key (PEM, Ed25519) whose owner must have signed the bundle", metavar="PEM"),
]


@app.command(
    epilog="Example: [bold]bmnas predict interview.mp4 --json[/bold]\n\n"
    "With a detector in one file: [bold]bmnas predict folder-of-videos --bundle detector.bmnas --csv[/bold]\n\n"
    "Hours, a window every 2 s: [bold]bmnas predict hearing.mkv --hop 2[/bold]\n\n"
    "A page to look at, a file each: [bold]bmnas predict interview.mp4 --html pages[/bold]"
)
def predict(
    videos: Annotated[
        list[str],
        typer.Argument(
            help="media files, folders of them, patterns ('**/*.mp4'), or - for a list on standard input, a line or "
            "a NUL behind each",
            metavar="VIDEO",
        ),
    ],
    work: Work = WORK,
    bundle: Sealed = None,
    key: Key = None,
    download: Annotated[
        bool, typer.Option("--download", help="fetch weights that a bundle only names, where they are not here")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="print JSON, one object a line, as files are done; docs/predict.md has the keys"),
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print a table, one row a file, as files are done")] = False,
    hop: Annotated[
        float | None,
        number("--hop", low=0.1, help="seconds from window to window, through files of hours", metavar="S"),
    ] = None,
    faces: Annotated[
        Literal["all", "main"],
        typer.Option(help="also score each other face that stays long enough, or the main one alone"),
    ] = "all",
    explain: Annotated[
        bool, typer.Option("--explain", help="also say what the score hangs on: when, where, which layers and bands")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="write a page a file into this folder: player, reasons, limits", metavar="FOLDER"
        ),
    ] = None,
    scheduler: Scheduler = "",
    workers: Workers = None,
) -> None:
    """Say what a trained run's networks make of new files: how strong the evidence is, or that they cannot tell.

    They cannot where there is too little face or speech, where a file is unlike what they were trained on, and where
    the seeds' networks disagree; `bmnas evaluate` learns the limits. Raw scores stand beside the answer: they are no
    evidence by themselves. The run remembers its own parameters. Exit code 1 when a file cannot be scored.
    """
    from pipeline.detector.inputs import asked
    from pipeline.detector.opened import open_bundle
    from pipeline.detector.predict import predict as run
    from pipeline.detector.prediction import unscored
    from pipeline.runs.worth import kept_first
    from pipeline.workspace import Workspace

    if as_json and as_csv:
        raise typer.BadParameter("give one of them", param_hint="--json, --csv")
    check_given(work, bundle, key)
    found = asked(videos, sys.stdin.buffer)
    if not found:
        raise typer.BadParameter("standard input lists no file: give a name a line", param_hint="-")
    files = [each.path for each in found if not each.reason]
    compute = _compute(scheduler, workers, len(files))
    out = wide()
    write = json_lines() if as_json else csv_rows() if as_csv else text(out)
    scored = []
    with ExitStack() as opened:
        sealed = open_bundle(bundle, public_key=public_of(key), download=download) if bundle else None
        workspace = opened.enter_context(sealed) if sealed else Workspace(work)
        for said in kept_first(workspace):
            (console if as_json or as_csv else out).print(f"Before you rely on it: {said}", highlight=False)
        for each in found:
            if each.reason:
                write(unscored(str(each.path), each.reason))
        show = _pages(workspace, files, html, _options(work, bundle, hop, faces)) if html else None
        bar = _Bar()
        predictions = run(
            workspace, files, compute, hop_s=hop, faces=faces, explain=explain, show=show, progress=bar.within
        )
        bar.advance = opened.enter_context(_bar(out, len(files), lines=as_json or as_csv))
        for prediction in predictions:
            write(prediction)
            scored.append(prediction.score is not None)
            bar.next_file()
    if not all(scored) or len(scored) < len(found):
        raise typer.Exit(1)


def _compute(scheduler: str, workers: int | None, files: int) -> ComputeParams:
    """By how many processes so many files are looked at."""
    from pipeline.params import ComputeParams

    has_dask = bool(find_spec("distributed"))
    if (scheduler or workers not in (None, 1)) and not has_dask:
        raise typer.BadParameter(
            "several processes need Dask, which is not installed: leave it away, or install bmnas with its extra "
            "`train` (docs/install.md)",
            param_hint="--workers, --scheduler",
        )
    # One file in this process is done before a worker has started.
    count = workers if workers is not None else int(files < 4 or not has_dask)
    return ComputeParams(scheduler=scheduler, workers=count)


def _pages(workspace: Workspace, files: list[Path], folder: Path, options: dict[str, str]) -> Callable[[Path], Show]:
    from cache_schemas.files import file_sha256
    from pipeline.detector.page import about_detector, pages

    bundle = options.get("--bundle")
    about = about_detector(
        workspace,
        name=path_text(Path(bundle).name if bundle else str(workspace.root)),
        digest=file_sha256(Path(bundle)) if bundle else None,
        options=tuple(word for option in options.items() for word in option),
    )
    return pages(folder, files, about)


def _options(work: Path, bundle: Path | None, hop: float | None, faces: str) -> dict[str, str]:
    """Those that decide about the answer."""
    detector = {"--bundle": str(bundle)} if bundle else {"--work": str(work)}
    return detector | ({"--hop": f"{hop:g}"} if hop else {}) | ({} if faces == "all" else {"--faces": faces})


class _Bar:
    """Moves a bar over files, and within one that is long; none is shown before there is something to wait for."""

    def __init__(self) -> None:
        self.advance: Callable[[float], object] = lambda _: None
        self._share = 0.0

    def within(self, share: float) -> None:
        """So much of the file is done."""
        self.advance(share - self._share)
        self._share = share

    def next_file(self) -> None:
        """It is done."""
        self.within(1)
        self._share = 0


def _bar(out: Console, files: int, *, lines: bool) -> AbstractContextManager[Callable[[float], object]]:
    """Over the files; none on a terminal where it would be in the way of lines."""
    from pipeline.compute.progress import progress_bar

    if out.is_terminal and lines:
        return nullcontext(lambda _: None)
    return progress_bar("predict", total=files, unit="files", on=out if out.is_terminal else None)


def check_given(work: Path, bundle: Path | None, key: Path | None) -> None:
    """Raises where these do not name one detector."""
    from cache_schemas.run import RunFileError

    if bundle and work != WORK:
        raise typer.BadParameter("a bundle and a workspace are two detectors; give one", param_hint="--bundle, --work")
    if key and not bundle:
        raise typer.BadParameter("only bundles are signed; give --bundle", param_hint="--key")
    if not bundle and work.is_file():
        raise typer.BadParameter(f"{work} is a file: give a bundle as --bundle {work}", param_hint="--work")
    if not bundle and not work.is_dir():
        raise RunFileError(
            f"there is no folder {work}: run `bmnas retrain` first and then `bmnas evaluate`, give the results of "
            "a finished run as --work FOLDER, or a detector in one file as --bundle FILE"
        )


def public_of(key: Path | None) -> bytes | None:
    from cache_schemas.signature import read_public_key

    return read_public_key(key) if key else None


@bundles.callback(invoke_without_command=True, epilog="Example: [bold]bmnas bundle -o detector.bmnas[/bold]")
def bundle(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="the bundle", metavar="FILE")] = None,
    work: Work = WORK,
    sign: Annotated[
        Path | None, typer.Option(help="sign it with this private key (PEM, Ed25519)", metavar="PEM")
    ] = None,
    own_weights: Annotated[
        bool,
        typer.Option("--own-weights", help="let backbones' weights go along that are files of yours, or not free"),
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="put in all that is computed, so that nobody needs torch to use it")
    ] = False,
    calibrate_on: Annotated[
        str | None,
        typer.Option(
            help="calibrate on what this protocol left out in turn, not on validation clips of known sources: for "
            "videos from anywhere",
            metavar="PROTOCOL",
        ),
    ] = None,
) -> None:
    """Put a trained and evaluated detector into one file, for `bmnas predict --bundle` anywhere.

    In it: networks, calibration, limits, results, model card, parameters. Not in it: media, tables of clips, people,
    folders of this machine. Backbones' weights that come with a package or from their publisher are named, with their
    digest.
    """
    if context.invoked_subcommand:
        return
    if out is None:
        raise typer.BadParameter("name the file, or look at one by `bmnas bundle show FILE`", param_hint="-o")
    from cache_schemas.signature import read_private_key
    from pipeline.detector.bundle import make_bundle
    from pipeline.workspace import Workspace

    private = read_private_key(sign) if sign else None
    made = make_bundle(Workspace(work), out, key=private, own_weights=own_weights, onnx=onnx, calibrate_on=calibrate_on)
    console.print(f"bundle: {escape(str(out))}: {made.bytes / 1e6:.1f} MB, SHA-256 {made.sha256}")


@bundles.command("show", epilog="Example: [bold]bmnas bundle show detector.bmnas[/bold]")
def show(
    file: Annotated[Path, typer.Argument(help="a bundle", metavar="FILE")],
    key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a card")] = False,
) -> None:
    """Say what a bundle is, what it is worth, within which limits it answers, and whether it can be used here.

    The whole file is checked first. Texts in it are its maker's: who that is, only a signature and --key tell.
    """
    from pipeline.detector.card import bundle_card

    card = bundle_card(file, public_key=public_of(key))
    if as_json:
        print(json.dumps(card, indent=2))
        return
    Console().print(path_text(card["file"]), markup=False, highlight=False, soft_wrap=True)
    table = Table("", "", show_header=False)
    for title, lines in _card_lines(card):
        table.add_row(title, escape("\n".join(plain_text(line) for line in lines)))
    Console().print(table)


def _card_lines(card: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    from pipeline.statistics.strength import signed

    signature = card["signature"]
    networks = ", ".join(f"{len(seeds)} of {name}" for name, seeds in card["networks"].items())
    yield "file", [f"{card['bytes']:,} bytes, SHA-256", card["sha256"]]
    yield "made by", [f"bmnas {card['bmnas']}, format {card['format']}"]
    if signature:
        said = "the key that was given" if signature["checked"] else "nobody you named: give --key to be sure"
        yield "signed by", [signature["public_key"], said]
    else:
        yield "signed by", ["nobody"]
    yield "networks", [f"{networks}; {card['parameters']:,} parameters"]
    yield "trained", [f"{name}: {value}" for name, value in card["trained"].items()]
    yield "worth", [card["verdict"], *([card["headline"]] if card["headline"] else [])]
    if card["warnings"]:
        yield "warnings", card["warnings"]
    yield (
        "claims",
        [
            f"{name}: log10 LR {signed(of['log10_lr'][0])} to {signed(of['log10_lr'][1])}, by {of['by']}; "
            f"called fake from a score of {of['threshold']:.3f} on"
            for name, of in card["limits"].items()
        ],
    )
    for of in card["backbones"]:
        there = "here" if of["here"] else f"not here: {of['why_not']}"
        yield (
            of["modality"],
            [
                f"{of['name']}, weights {of['weights']}, licence {of['licence']}: {there}",
                of["how"],
                f"SHA-256 {of['weights_sha256']}",
            ],
        )


@app.command("export", epilog="Example: [bold]bmnas export --onnx fusion.onnx[/bold]")
def export(
    work: Work = WORK,
    network: Network = "fusion",
    seed: Annotated[
        int | None, typer.Option(help="one network alone, by the seed of its training; else the mean of all")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="write ONNX here", metavar="FILE")] = None,
    pt2: Annotated[Path | None, typer.Option(help="write a torch.export program here", metavar="FILE")] = None,
) -> None:
    """Take the trained detector elsewhere: features of windows in, P(fake) out, the mean of all its networks.

    What is written is loaded again and must give PyTorch's scores to 1e-5. Without --onnx and --pt2 only the
    detector's size and speed are printed. The backbones are not part of it.
    """
    from pipeline.detector.export import export_networks, load_networks
    from pipeline.workspace import Workspace

    result = export_networks(load_networks(Workspace(work), network, seed), onnx=onnx, pt2=pt2)
    seeds = f"seed{'s' if len(result.seeds) > 1 else ''} {', '.join(map(str, result.seeds))}"
    table = Table("", "", show_header=False, title=f"network {network}, {seeds}")
    table.add_row("reads", escape("\n".join(result.inputs)))
    table.add_row("parameters", f"{result.parameters:,}")
    table.add_row("multiply-adds a window", f"{result.macs:,}")
    for name, latency in result.latency_ms.items():
        table.add_row(f"one window, {name}", f"{latency:.3f} ms")
    Console().print(table)
    for file, error in result.errors.items():
        text = f"{escape(file)}: written; differs from PyTorch by {error:.1e} at most"
        Console().print(text, soft_wrap=True, highlight=False)
