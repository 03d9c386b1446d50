"""`bmnas cache`: look after the feature cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import PARAMS, WORK, ParamsFile, console

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
    """Print every backbone's rows and layers: how many there are, how many the index uses, shards and bytes."""
    from cache_schemas.features import FeatureCache
    from cache_schemas.features.upkeep import summarise

    table = Table("backbone, layer", "shape of a row", "rows", "in use", "shards", "MB", title=str(cache))
    total = 0
    for entry in summarise(cache):
        variant = entry.variant
        used = f"{entry.used} ({entry.used / max(1, entry.rows):.0%})"
        counts = (str(entry.rows), used, str(entry.shards), f"{entry.bytes / 1e6:.1f}")
        table.add_row(escape(variant.path), variant.dtype, *counts, style="bold")
        for layer, channels in variant.layers.items():
            size = _megabytes(cache / variant.array(layer))
            table.add_row(f"  {escape(layer)}", f"({channels}, {variant.length})", "", "", "", size)
        total += entry.bytes
    Console().print(table)
    opened = FeatureCache.open(cache)
    splits = ", ".join(f"{count} {name}" for name, count in opened.index["split"].value_counts().items())
    Console().print(
        f"index: {len(opened)} windows ({splits}) of {opened.index['clip_id'].nunique()} clips, views: {opened.views}; "
        f"{total / 1e6:.1f} MB in all",
        soft_wrap=True,
    )


def _megabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f}"


@app.command("verify", epilog="Example: [bold]bmnas cache verify --sample 20[/bold]")
def cache_verify(
    cache: CachePath = CACHE,
    drop: Annotated[bool, typer.Option("--drop", help="forget what is damaged, so that it is computed again")] = False,
    sample: Annotated[int, typer.Option("--sample", min=0, help="compute so many rows again from the clips")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="draws the sample")] = 0,
    params: ParamsFile = PARAMS,
) -> None:
    """Check every byte of every shard, the schema and the index. Exit code 1 when something is wrong.

    With --sample also whether the rows are what the clips give today. The cache knows by which parameters and backbones
    it was made; only the clips' folder (data.root) is taken from the parameters.
    """
    from cache_schemas.features.upkeep import drop as forget
    from cache_schemas.features.upkeep import summarise, verify
    from pipeline.compute.progress import progress_bar

    with progress_bar("verify", total=sum(entry.shards for entry in summarise(cache)), unit="shards") as advance:
        found = verify(cache, advance)
    problems, damaged = found.problems, found.damaged
    console.print(f"verify: {found.shards} shards, {found.bytes / 1e6:.1f} MB, {len(problems)} problems")
    if sample and not problems:  # what is damaged cannot be compared
        problems, damaged = _verify_sample(cache, sample, seed, params)
    for problem in problems:
        Console().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
    if drop and (damaged or found.problems):
        forget(cache, damaged)
        console.print("dropped: run `bmnas features` to compute again what is missing")
    if problems:
        raise typer.Exit(1)


def _verify_sample(cache: Path, sample: int, seed: int, params: Path) -> tuple[list[str], list[Any]]:
    from pipeline.compute.progress import progress_bar
    from pipeline.features.recompute import verify_sample
    from pipeline.params import load_params

    with progress_bar("sample", total=sample, unit="rows") as advance:
        found = verify_sample(cache, load_params(params), sample, seed=seed, advance=advance)
    console.print(
        f"sample: {found.rows} rows computed again from the clips: relative errors up to {found.largest_error:.1e}, "
        f"{len(found.problems)} problems"
    )
    return found.problems, found.damaged


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
    from pipeline.compute.progress import progress_bar

    opened = FeatureCache.open(cache)
    table = Table("layer", "channels", "mean", "std", "min", "max", "dead channels")
    with progress_bar("stats", total=len(opened.layers), unit="layers") as advance:
        for row in layer_statistics(opened):
            numbers = [f"{row[name]:.4g}" for name in ("mean", "std", "min", "max")]
            table.add_row(row["layer"], str(row["channels"]), *numbers, str(row["dead"]))
            advance(1)
    Console().print(table)
