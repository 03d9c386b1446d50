"""`bmnas genotype`: look at architectures, compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import WORK, Network, console

app = typer.Typer()
genotypes = typer.Typer(
    name="genotype",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look at architectures: as text, as a drawing, and what differs between two.",
)
app.add_typer(genotypes)

File = Annotated[Path, typer.Argument(help="a genotype's JSON, a search.json or a retrain.json", metavar="FILE")]
Seed = Annotated[int | None, typer.Option(help="which entry of a run's file; else its first", metavar="SEED")]


@genotypes.command("show", epilog="Example: [bold]bmnas genotype show --svg fusion.svg[/bold]")
def show(
    file: File = WORK / "search" / "search.json",
    network: Network = "fusion",
    seed: Seed = None,
    svg: Annotated[Path | None, typer.Option(help="also draw it into this file", metavar="FILE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the genotype's JSON instead of words")] = False,
) -> None:
    """Print one architecture in words, or as JSON, and draw it."""
    from cache_schemas.files import write_text
    from pipeline.figures.genotype import describe, standalone_svg
    from pipeline.runs.genotypes import find_genotype

    found = find_genotype(file, network, seed)
    if as_json:
        print(found.genotype.to_json())
    else:
        for line in describe(found.genotype):
            Console().print(escape(line), soft_wrap=True, highlight=False)
    if svg is not None:
        write_text(svg, standalone_svg(found.genotype, found.layers))
        console.print(f"genotype: drawn in {escape(str(svg))}")


@genotypes.command("diff", epilog="Example: [bold]bmnas genotype diff old/search.json work/search/search.json[/bold]")
def diff(old: File, new: File, network: Network = "fusion", seed: Seed = None) -> None:
    """Print what differs between two architectures, place by place."""
    from pipeline.runs.genotypes import differences, find_genotype

    found = differences(*(find_genotype(file, network, seed).genotype for file in (old, new)))
    if not found:
        Console().print("the same architecture")
        return
    for name, file in (("old", old), ("new", new)):
        Console().print(f"{name}: {escape(str(file))}", soft_wrap=True, highlight=False)
    table = Table("place", "old", "new")
    for row in found:
        table.add_row(*(escape(text) for text in row))
    Console().print(table)


@genotypes.command("schema", epilog="Example: [bold]bmnas genotype schema > genotype.schema.json[/bold]")
def schema() -> None:
    """Print the JSON Schema of a genotype."""
    from nas import Genotype

    print(json.dumps(Genotype.model_json_schema(), indent=2))
