"""`bmnas cache`: look after the feature cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import WORK, console

app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look after the feature cache: what is in it, is it whole.",
)
CachePath = Annotated[Path, typer.Argument(help="the feature cache", metavar="CACHE")]
CACHE = WORK / "features.zarr"


@app.command("info", epilog="Example: [bold]bmnas cache info work/features.zarr[/bold]")
def cache_info(cache: CachePath = CACHE) -> None:
    """Print every backbone's rows: how many there are, how many the index uses, shards and bytes."""
    from cache_schemas.features.upkeep import summarise

    table = Table("backbone", "layers", "rows", "in use", "shards", "MB", title=str(cache))
    for entry in summarise(cache):
        layers = str(len(entry.variant.layers))
        counts = (str(entry.rows), str(entry.used), str(entry.shards), f"{entry.bytes / 1e6:.1f}")
        table.add_row(escape(entry.variant.path), layers, *counts)
    Console().print(table)


@app.command("verify", epilog="Example: [bold]bmnas cache verify --drop[/bold]   (then bmnas features)")
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


@app.command("gc", epilog="Example: [bold]bmnas cache gc[/bold]")
def cache_gc(cache: CachePath = CACHE) -> None:
    """Give back what the index does not use: rows of removed clips, of other backbones and other parameters."""
    from cache_schemas.features.upkeep import collect_garbage

    console.print(f"gc: {collect_garbage(cache) / 1e6:.1f} MB given back")


@app.command("merge", epilog="Example: [bold]bmnas cache merge work/features.zarr /mnt/other/features.zarr[/bold]")
def cache_merge(
    cache: CachePath, source: Annotated[Path, typer.Argument(help="taken from; stays as it is", metavar="SOURCE")]
) -> None:
    """Take from another cache what this one lacks: two machines that computed different parts."""
    from cache_schemas.features.upkeep import merge

    for variant, rows in merge(cache, source).items():
        console.print(f"merge: {rows} rows of {variant}")


@app.command("stats", epilog="Example: [bold]bmnas cache stats[/bold]")
def cache_stats(cache: CachePath = CACHE) -> None:
    """Print each layer's mean, spread, range and dead channels, out of core."""
    from cache_schemas.features import FeatureCache
    from cache_schemas.features.statistics import layer_statistics
    from pipeline.workers import progress_bar

    opened = FeatureCache.open(cache)
    table = Table("layer", "channels", "mean", "std", "min", "max", "dead channels")
    with progress_bar("stats", total=len(opened.layers), unit="layers") as advance:
        for row in layer_statistics(opened):
            numbers = [f"{row[name]:.4g}" for name in ("mean", "std", "min", "max")]
            table.add_row(row["layer"], str(row["channels"]), *numbers, str(row["dead"]))
            advance(1)
    Console().print(table)
