"""`bmnas cache`: look after the feature cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import PARAMS, WORK, ParamsFile, console, number

if TYPE_CHECKING:
    from cache_schemas.features import VariantAttributes

app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look after the feature cache: what is in it, is it whole.",
)
CachePath = Annotated[Path, typer.Argument(help="the feature cache, a folder", metavar="CACHE")]
CacheUrl = Annotated[str, typer.Argument(help="the feature cache: a folder or a URL (s3://...)", metavar="CACHE")]
CACHE = WORK / "features.zarr"


@app.command("info", epilog="Example: [bold]bmnas cache info work/features.zarr[/bold]")
def cache_info(cache: CacheUrl = str(CACHE)) -> None:
    """Print every backbone's rows and layers: how many there are, how many the index uses, shards and bytes."""
    from cache_schemas.features import FeatureCache
    from cache_schemas.features.upkeep import summarise

    Console().print(escape(cache), soft_wrap=True, highlight=False)
    entries = summarise(cache)
    for entry in entries:
        variant = entry.variant
        Console().print(
            f"\n[bold]{escape(variant.path)}[/]: {variant.dtype}, {entry.rows} rows, {entry.used} in use "
            f"({entry.used / max(1, entry.rows):.0%}), {entry.shards} shards, {entry.bytes / 1e6:.1f} MB",
            soft_wrap=True,
        )
        table = Table("layer", "shape of a row", "MB")
        for layer, channels in variant.layers.items():
            size = f"{entry.layer_bytes[layer] / 1e6:.1f}"
            table.add_row(_stage(variant, layer), f"({variant.length}, {channels})", size)
        Console().print(table)
        for versions in entry.versions:
            told = ", ".join(f"{name} {version}" for name, version in versions.items())
            Console().print(f"computed by {told}", soft_wrap=True)
    opened = FeatureCache.open(cache)
    splits = ", ".join(f"{count} {name}" for name, count in opened.index["split"].value_counts().items())
    Console().print(
        f"index: {len(opened)} windows ({splits}) of {opened.index['clip_id'].nunique()} clips, views: {opened.views}, "
        f"pseudo-fakes: {opened.pseudo}; "
        f"{sum(entry.bytes for entry in entries) / 1e6:.1f} MB in all",
        soft_wrap=True,
    )
    control = opened.control()
    named = ", ".join(variant.path for variant in control.variants) if control else f"none: {opened.no_control}"
    Console().print(f"control, of random weights: {escape(named)}", soft_wrap=True)


def _stage(variant: VariantAttributes, layer: str) -> str:
    """A layer's name without its backbone's: narrow enough for a table."""
    return escape(layer.removeprefix(f"{variant.modality}/{variant.name}."))


@app.command("verify", epilog="Example: [bold]bmnas cache verify --sample 20[/bold]")
def cache_verify(
    cache: CacheUrl = str(CACHE),
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
    from cache_schemas.features.upkeep import shard_count, verify
    from pipeline.compute.progress import progress_bar

    if drop:
        _folder(cache)
    with progress_bar("verify", total=shard_count(cache), unit="shards") as advance:
        found = verify(cache, advance)
    problems, damaged = found.problems, found.damaged
    console.print(f"verify: {found.shards} shards, {found.bytes / 1e6:.1f} MB, {len(problems)} problems")
    if sample and not problems:  # what is damaged cannot be compared
        problems, damaged = _verify_sample(cache, sample, seed, params)
    for problem in problems:
        Console().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
    if drop and (damaged or found.problems):
        forget(_folder(cache), damaged)
        console.print("dropped: run `bmnas features` to compute again what is missing")
    if problems:
        raise typer.Exit(1)


def _folder(cache: str) -> Path:
    if "://" in cache:
        raise typer.BadParameter(f"{cache}: --drop changes the cache: give a folder", param_hint="CACHE")
    return Path(cache)


def _verify_sample(cache: str, sample: int, seed: int, params: Path) -> tuple[list[str], list[Any]]:
    from cache_schemas.manifest import read_manifest
    from pipeline.compute.progress import progress_bar
    from pipeline.features.recompute import verify_sample
    from pipeline.params import load_params
    from pipeline.workspace import Workspace

    manifest = Workspace(WORK).manifest
    clips = read_manifest(manifest) if manifest.exists() else []
    with progress_bar("sample", total=sample, unit="rows") as advance:
        found = verify_sample(cache, load_params(params), sample, clips=clips, seed=seed, advance=advance)
    console.print(
        f"sample: {found.rows} rows computed again from the clips: relative errors up to {found.largest_error:.1e}, "
        f"{len(found.problems)} problems"
    )
    return found.problems, found.damaged


@app.command("gc", epilog="Example: [bold]bmnas cache gc --older-than 0[/bold]")
def cache_gc(
    cache: CachePath = CACHE,
    older_than: Annotated[
        float,
        number("--older-than", low=0, help="hours that an index stays after it was replaced by another"),
    ] = 24.0,
) -> None:
    """Give back what no index uses: rows of removed clips, of other backbones and other parameters.

    An index of an earlier run, with its rows, stays until it is older than --older-than: somebody may be reading it.
    While a run is at work on the cache, gc changes nothing.
    """
    from cache_schemas.features.garbage import collect_garbage

    given_back = collect_garbage(cache, older_than_seconds=3600 * older_than)
    console.print(f"gc: {given_back / 1e6:.1f} MB given back (indexes of the last {older_than:g} hours kept)")


@app.command("merge", epilog="Example: [bold]bmnas cache merge work/features.zarr /mnt/other/features.zarr[/bold]")
def cache_merge(
    cache: CachePath,
    source: Annotated[str, typer.Argument(help="taken from; stays as it is: a folder or a URL", metavar="SOURCE")],
) -> None:
    """Take from another cache what this one lacks: two machines that computed different parts."""
    from cache_schemas.features.upkeep import merge

    for variant, rows in merge(cache, source).items():
        console.print(f"merge: {rows} rows of {variant}")


@app.command("migrate", epilog="Example: [bold]bmnas cache migrate work/features.zarr[/bold]")
def cache_migrate(cache: CachePath = CACHE) -> None:
    """Rewrite a cache of an earlier format as one of today's, features bit-equal. The old one is kept beside it.

    Killed at any time, it goes on where it stopped. Needs room for a second cache.
    """
    from cache_schemas.features.migrate import migrate, row_count
    from pipeline.compute.progress import progress_bar

    with progress_bar("migrate", total=row_count(cache), unit="rows") as advance:
        kept = migrate(cache, advance)
    console.print(
        f"migrate: {escape(str(cache))} is of today's format; the old cache is {escape(str(kept))}: remove it when you "
        "like"
    )


@app.command("stats", epilog="Example: [bold]bmnas cache stats[/bold]")
def cache_stats(cache: CacheUrl = str(CACHE)) -> None:
    """Print each layer's mean, spread, range and dead channels, out of core; then those of random weights."""
    from cache_schemas.features import FeatureCache
    from cache_schemas.features.upkeep import both_indexes, layer_statistics
    from pipeline.compute.progress import progress_bar

    indexes = both_indexes(FeatureCache.open(cache))
    tables: dict[str, Table] = {}
    with progress_bar("stats", total=sum(len(one.layers) for one in indexes), unit="layers") as advance:
        for opened, row in ((one, row) for one in indexes for row in layer_statistics(one)):
            variant = opened.variant_of(row["layer"])
            numbers = [f"{row[name]:.4g}" for name in ("mean", "std", "min", "max")]
            table = tables.setdefault(variant.path, Table("layer", "channels", "mean", "std", "min", "max", "dead"))
            table.add_row(_stage(variant, row["layer"]), str(row["channels"]), *numbers, str(row["dead"]))
            advance(1)
    for path, table in tables.items():
        Console().print(f"[bold]{escape(path)}[/]", soft_wrap=True)
        Console().print(table)
