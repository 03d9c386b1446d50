"""`bmnas predict`, `bundle` and `export`: a trained detector, used and passed on."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from cache_schemas.paths import path_text, plain_text
from pipeline.cli.options import WORK, Network, Scheduler, Work, Workers, console, wide

if TYPE_CHECKING:
    from pipeline.detector.prediction import Person, Prediction, WhichFaces
    from pipeline.params import ComputeParams
    from pipeline.statistics.answers import Answer
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
    as_json: Annotated[
        bool,
        typer.Option("--json", help="print JSON, one object a line, as files are done; docs/predict.md has the keys"),
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print a table, one row a file, as files are done")] = False,
    hop: Annotated[
        float | None,
        typer.Option("--hop", min=0.1, help="seconds from window to window, through files of hours", metavar="S"),
    ] = None,
    faces: Annotated[
        Literal["all", "main"],
        typer.Option(help="also score each other face that stays long enough, or the main one alone"),
    ] = "all",
    html: Annotated[
        Path | None,
        typer.Option(help="write a page a file into this folder: player, reasons, limits", metavar="FOLDER"),
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
    from pipeline.params import ComputeParams
    from pipeline.workspace import Workspace

    if as_json and as_csv:
        raise typer.BadParameter("give one of them", param_hint="--json, --csv")
    check_given(work, bundle, key)
    found = asked(videos, sys.stdin.buffer)
    files = [each.path for each in found if not each.reason]
    # One file in this process is done before a worker has started.
    count = workers if workers is not None else int(len(files) < 4 or not find_spec("distributed"))
    out = wide()
    write = _json_lines() if as_json else _csv_rows() if as_csv else _text(out)
    scored = []
    for each in found:
        if each.reason:
            write(unscored(str(each.path), each.reason))
    with ExitStack() as opened:
        workspace = opened.enter_context(open_bundle(bundle, public_key=public_of(key))) if bundle else Workspace(work)
        compute = ComputeParams(scheduler=scheduler, workers=count)
        if html:
            predictions = _with_pages(
                workspace,
                files,
                compute,
                hop_s=hop,
                faces=faces,
                folder=html,
                options=_options(work, bundle, hop, faces),
            )
        else:
            predictions = run(workspace, files, compute, hop_s=hop, faces=faces)
        advance = opened.enter_context(_bar(out, len(files), lines=as_json or as_csv))
        for prediction in predictions:
            write(prediction)
            scored.append(prediction.score is not None)
            advance(1)
    if not all(scored) or len(scored) < len(found):
        raise typer.Exit(1)


def _with_pages(
    workspace: Workspace,
    files: list[Path],
    compute: ComputeParams,
    *,
    hop_s: float | None,
    faces: WhichFaces,
    folder: Path,
    options: dict[str, str],
) -> Iterator[Prediction]:
    from cache_schemas.files import file_sha256
    from pipeline.detector.page import about_detector, predict_pages

    bundle = options.get("--bundle")
    about = about_detector(
        workspace,
        name=path_text(Path(bundle).name if bundle else str(workspace.root)),
        digest=file_sha256(Path(bundle)) if bundle else None,
        options=tuple(word for option in options.items() for word in option),
    )
    return predict_pages(workspace, files, compute, hop_s=hop_s, faces=faces, folder=folder, about=about)


def _options(work: Path, bundle: Path | None, hop: float | None, faces: str) -> dict[str, str]:
    """Those that decide about the answer."""
    detector = {"--bundle": str(bundle)} if bundle else {"--work": str(work)}
    return detector | ({"--hop": f"{hop:g}"} if hop else {}) | ({} if faces == "all" else {"--faces": faces})


def _bar(out: Console, files: int, *, lines: bool) -> AbstractContextManager[Callable[[int], object]]:
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


Write = Callable[["Prediction"], None]


def _json_lines() -> Write:
    return lambda prediction: print(json.dumps(asdict(prediction)), flush=True)


_CSV = (
    *("path", "answer", "log10_lr", "lowest", "highest", "probability", "score", "picture", "sound", "windows"),
    *("others", "other_answer", "other_log10_lr", "other_from_s", "other_to_s"),
)


def _csv_rows() -> Write:
    """A name that a spreadsheet would take for a formula is written with ./ before it."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(_CSV)

    def write(prediction: Prediction) -> None:
        answer, path = prediction.answer, path_text(prediction.path)
        alone = (prediction.modalities.get(name) for name in ("visual", "audio"))
        other = next(iter(_strongest_first(prediction.people)), None)
        table.writerow(
            [
                f"./{path}" if path.startswith(("=", "+", "-", "@")) else path,
                plain_text(answer.says),
                answer.log10_lr,
                *(answer.limits or (None, None)),
                answer.probability,
                prediction.score,
                *(of and plain_text(of.says) for of in alone),
                len(prediction.windows),
                len(prediction.people),
                *([plain_text(other.answer.says), other.answer.log10_lr, other.first_s, other.last_s] if other else []),
            ]
        )
        sys.stdout.flush()

    return write


def _strongest_first(people: Sequence[Person]) -> list[Person]:
    """By what speaks for a fake; those of whom nothing can be said come last."""
    lr = [-math.inf if each.answer.log10_lr is None else each.answer.log10_lr for each in people]
    return [people[i] for i in sorted(range(len(people)), key=lambda i: -lr[i])]


def _text(out: Console) -> Write:
    def write(prediction: Prediction) -> None:
        out.print(f"[bold]{escape(path_text(prediction.path))}[/]", soft_wrap=True, highlight=False)
        rows = Table.grid(padding=(0, 2, 0, 0))
        for name, answer in {"fusion": prediction.answer, **prediction.modalities}.items():
            rows.add_row(_WHOSE[name] if prediction.modalities else "", escape(_answer_text(answer)))
        if prediction.shares:
            told = ", ".join(f"{_PART[name]} {share:+.2f}" for name, share in prediction.shares.items())
            rows.add_row("of log10 LR", f"{told} (Shapley shares)")
        if prediction.score is not None:
            rows.add_row("the networks", prediction.agreement)
            rows.add_row("raw P(fake)", f"{prediction.score:.3f}, no evidence by itself")
            windows = "  ".join(f"{round(window.start_s, 2):g}: {window.score:.3f}" for window in prediction.windows)
            rows.add_row("", f"from second {windows}")
        for person in _strongest_first(prediction.people)[:_MOST_PEOPLE]:
            rows.add_row("a face", f"seen from second {person.first_s:.1f} to {person.last_s:.1f}")
            for name, answer in {"fusion": person.answer, "visual": person.modalities["visual"]}.items():
                rows.add_row(f"  {_WHOSE[name]}", escape(_answer_text(answer)))
        if (more := len(prediction.people) - _MOST_PEOPLE) > 0:
            rows.add_row("", f"and {more} more that speak less for a fake: --json has them all")
        out.print(Padding(rows, (0, 0, 0, 2), expand=False), highlight=False)

    return write


_MOST_PEOPLE = 5
_PART = {"visual": "picture", "audio": "sound"}
_WHOSE = {"fusion": "picture and sound", "visual": "picture alone", "audio": "sound alone"}


def _answer_text(answer: Answer) -> str:
    if answer.log10_lr is None or answer.limits is None:
        return plain_text(answer.says)
    low, high = answer.limits
    return (
        f"{answer.says}\nlog10 LR {answer.log10_lr:+.2f} (claims end at {low:+.2f} and {high:+.2f}); "
        f"at even odds P(fake) {answer.probability:.2f}"
    )


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
    made = make_bundle(Workspace(work), out, key=private, own_weights=own_weights, onnx=onnx)
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
            f"{name}: log10 LR {of['log10_lr'][0]:+.2f} to {of['log10_lr'][1]:+.2f}, by {of['real']} real and "
            f"{of['fake']} fake validation clips; called fake from a score of {of['threshold']:.3f} on"
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
