"""Commands over many runs at once: `oracle`, `sweep`, `baselines` and `protocol`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import PARAMS, WORK, ParamsFile, Scheduler, Work, Workers, setup, wide

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()


@app.command(
    epilog="Example: [bold]bmnas oracle --steps 1 --seeds 5[/bold]   (280 architectures of 8 layers, 5 times each)"
)
def oracle(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    cells: Annotated[int, typer.Option(min=1, help="S, cells of the architectures")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="T, steps of every cell")] = 1,
    space: Annotated[str, typer.Option(help="slots | bmnas; all that bmnas can derive is in slots, too")] = "slots",
    seeds: Annotated[int, typer.Option(min=1, help="trainings of every architecture")] = 5,
    sample: Annotated[int, typer.Option(min=0, help="so many architectures, by strata; 0: every one")] = 0,
    searches: Annotated[int, typer.Option(min=0, help="runs of every search method to certify; 0: none")] = 20,
    scheduler: Scheduler = "",
    workers: Workers = None,
) -> None:
    """Train every architecture of a space from scratch, then say how close search methods come to the best.

    Architectures that compute the same function are counted once. Writes work/oracle: tables (CSV, JSON) and a figure.
    Finished batches are kept: a killed run goes on where it was.
    """
    from pipeline.experiments.certificates import certify, print_certificates
    from pipeline.experiments.oracle import Question, run_oracle
    from pipeline.params import ParamsError

    if space not in ("slots", "bmnas"):
        raise ParamsError(f"command line: --space {space}: allowed: slots, bmnas")
    workspace, settings = setup(params, work, scheduler, workers)
    question = Question(cells, steps, space, tuple(range(seeds)), sample)  # type: ignore[arg-type]
    table = run_oracle(workspace, settings, question)
    if searches:
        table = certify(workspace, settings, table, tuple(range(searches)))
    shown = Table(
        "rank", "architecture", "val AUC", "test AUC", "parameters", title=f"{len(table.entries)} architectures"
    )
    for entry in table.entries[:5] + table.entries[-1:]:
        val, test = (f"{getattr(entry, name):.3f}" for name in ("val_auc", "test_auc"))
        spread = "" if entry.test_auc_std is None else f" ± {entry.test_auc_std:.3f}"
        shown.add_row(str(entry.rank), escape(entry.architecture), val, test + spread, f"{entry.parameters:,}")
    Console().print(shown)
    if table.certificates:
        print_certificates(table, Console())
    Console().print(f"oracle: {escape(str((workspace.oracle / 'oracle.csv').resolve()))}", soft_wrap=True)


@app.command(
    epilog="Example: [bold]bmnas sweep --grid temperature=1,5,10,15 --grid samples=1,5,10,15 --seeds 5 --retrain[/bold]"
)
def sweep(
    grid: Annotated[
        list[str],
        typer.Option("--grid", help="a field of search in params.yaml and its values", metavar="FIELD=V,V,..."),
    ],
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    seeds: Annotated[int, typer.Option(min=1, help="searches of every point of the grid")] = 5,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="train every found architecture, too: val and test AUC")
    ] = False,
    scheduler: Scheduler = "",
    workers: Workers = None,
) -> None:
    """Search at every point of a grid, many runs at once, and show the effect of the settings over seeds.

    Writes work/sweep: sweep.csv (one row a run), summary.csv (mean and spread over the seeds, for `dvc plots show`) and
    sweep.svg. Finished batches are kept: a killed sweep goes on where it was, and a larger grid repeats nothing.
    """
    from pipeline.experiments.sweep import Grid, run_sweep

    workspace, settings = setup(params, work, scheduler, workers)
    table = run_sweep(workspace, settings, Grid.parse(grid, seeds, settings.search), retrain=retrain)
    failed = int((table["failed"] != "").sum())
    Console().print(
        f"sweep: {len(table)} runs, {failed} failed, in {escape(str((workspace.sweep / 'sweep.csv').resolve()))}",
        soft_wrap=True,
    )
    if failed == len(table):
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]bmnas baselines[/bold]   (then open work/baselines/baselines.svg)")
def baselines(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    scheduler: Scheduler = "",
    workers: Workers = None,
) -> None:
    """Train what a searched network has to beat: probes, one modality alone, late and designed fusion, other searches.

    All on the same cache, splits and seeds. Writes work/baselines: a table (CSV, JSON) and a figure. Finished methods
    are kept: a killed run goes on where it was. `bmnas protocol people` uses a small data set whole.
    """
    from pipeline.datasets import LAYOUTS
    from pipeline.experiments.baselines import run_baselines

    workspace, settings = setup(params, work, scheduler, workers)
    table = run_baselines(workspace, settings)
    categories = [name for name in ("RVFA", "FVRA", "FVFA", "FV-") if f"auc_{name}" in table]
    over = "with 95 % intervals over people" if table["auc_low"].notna().any() else "too few people for intervals"
    assumed = LAYOUTS[settings.data.layout].assumed
    caption = f"Assumed by the layout: {assumed}" if assumed else None
    shown = Table(title=f"Test split: clip AUC, mean over seeds, {over}", caption=caption)
    for name in ("method", "all", *categories, "EER", "parameters"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    for row in table.to_dict("records"):
        aucs = [_interval(row, "auc"), *(_interval(row, f"auc_{name}") for name in categories)]
        shown.add_row(escape(row["method"]), *aucs, _number(row["eer"]), f"{row['parameters']:,}")
    wide().print(shown)
    path = (workspace.baselines / "baselines.csv").resolve()
    Console().print(f"baselines: {escape(str(path))}", soft_wrap=True)


@app.command(
    epilog="Example: [bold]bmnas protocol leave-one-source-out[/bold]   (then open work/protocols/.../heatmap.svg)"
)
def protocol(
    name: Annotated[
        str,
        typer.Argument(
            help="people | in-data-set | cross-data-set | leave-one-source-out | leave-one-method-out | "
            "leave-one-group-out, or a YAML file with kind, by, folds, only, methods",
            show_default=False,
        ),
    ],
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    scheduler: Scheduler = "",
    workers: Workers = None,
) -> None:
    """Train and test by a protocol: on other people, or on sources, methods or groups of which nothing was seen.

    Runs search, retraining and test of every fold, and the probes beside them, over one cache. Nobody who is tested was
    learnt from. Writes a table, a heat map, the scores and each fold's people to work/protocols/NAME. Finished runs are
    kept: a killed protocol goes on where it was.
    """
    from pipeline.experiments.folds import read_protocol
    from pipeline.experiments.protocols import run_protocol
    from pipeline.statistics.means import MEAN, MEANS, PAIRS

    workspace, settings = setup(params, work, scheduler, workers)
    title, chosen = read_protocol(name)
    found = run_protocol(workspace, settings, title, chosen)
    table = found.table
    first = table[(table["method"] == chosen.methods[0]) & ~table["trained_on"].isin(MEANS)]
    whole = table[table["trained_on"] == PAIRS]
    console = wide()
    console.print(_protocol_table(f"{title}: {chosen.methods[0]}", first[first["auc"].notna()], "tested_on", {}))
    if one_class := len(first) - int(first["auc"].notna().sum()):
        console.print(f"{one_class} tests more hold one class only: table.csv tells their errors")
    if len(whole) or len(first) == 1:
        name = f"{title}: {whole['tested_on'].iloc[0]}" if len(whole) else title
        means = table[table["trained_on"] == MEAN].set_index("method").to_dict("index")
        console.print(_protocol_table(name, whole if len(whole) else table, "method", means))
    for each in found.skipped:
        Console().print(escape(f"not trained: {each.trained_on}: {each.reason}"), soft_wrap=True)
    if found.adds:
        Console().print(found.adds["sentence"], style="bold", markup=False, highlight=False, soft_wrap=True)
    if found.carry_over:
        Console().print(found.carry_over["sentence"], markup=False, highlight=False, soft_wrap=True)
    Console().print(f"protocol: {escape(str((workspace.protocols / title).resolve()))}", soft_wrap=True)


def _protocol_table(title: str, rows: pd.DataFrame, column: str, means: dict[Any, Any]) -> Table:
    """means: by method, the rows in which tests count alike; in `rows` pairs do, and clips in the rates."""
    shown = Table(title=f"{escape(title)}: clip AUC of the seeds' mean score, 95 % intervals over tests and people")
    aucs = ("AUC, by pairs", "AUC, mean of tests") if means else ("AUC",)
    for name in (column.replace("_", " "), "real", "fake", *aucs, "one seed", "fakes missed", "reals accused"):
        shown.add_column(name, justify="left" if name == column.replace("_", " ") else "right")
    for row in rows.to_dict("records"):
        called = str(row[column])
        if column == "tested_on" and row["trained_on"] not in (called, f"all but {called}"):
            called += f", trained on {row['trained_on']}"
        rates = [_number(row[key], 2) for key in ("fakes_missed", "reals_accused")]
        counts = str(row["real"]), str(row["fake"])
        spans = [_interval(row, "auc"), *([_interval(means[row["method"]], "auc")] if means else [])]
        shown.add_row(escape(called), *counts, *spans, _number(row["auc_one"]), *rates)
    return shown


def _interval(row: dict[Any, Any], name: str) -> str:
    low, high = (_number(row.get(f"{name}_{end}"), 2) for end in ("low", "high"))
    return _number(row[name]) + ("" if low == "-" else f" ({low}-{high})")


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
