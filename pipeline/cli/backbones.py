"""`bmnas backbones`: which frozen networks can be had here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.padding import Padding

from pipeline.cli.options import wide

if TYPE_CHECKING:
    from pipeline.backbones.known import Known, Measured

app = typer.Typer()

_BUILT = 20  # names whose layers are looked up: that builds the network


@app.command(epilog="Example: [bold]bmnas backbones wavlm --time[/bold]   (every name with wavlm in it)")
def backbones(
    word: Annotated[str, typer.Argument(help="only names with this in them", metavar="WORD")] = "",
    every: Annotated[bool, typer.Option("--all", help="every name of every family, a line each")] = False,
    timed: Annotated[bool, typer.Option("--time", help="measure seconds a window, with random weights")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """List the frozen networks that features.visual and features.audio can name.

    Says whose weights are here and how to get the others, what they read, their layers with channels, and the licence
    of the weights. Layers are looked up for up to 20 names, with random weights: nothing is downloaded.
    """
    from pipeline.backbones.known import known

    found = known(word, every=every)
    if not found:
        raise typer.BadParameter(f"no backbone has {word!r} in its name; `bmnas backbones` lists the families")
    build = sum(not one.many for one in found) <= _BUILT
    rows = [(one, _measured(one, timed) if build and not one.many else None) for one in found]
    if as_json:
        typer.echo(json.dumps([_row(*row) for row in rows], indent=2))
        return
    for one, measured in rows:
        _print(one, measured)


def _measured(one: Known, timed: bool) -> Measured | str:
    """What it is, or why it cannot be built here."""
    from pipeline.backbones.known import measure

    try:
        return measure(one, timed=timed)
    except Exception as error:  # of any of hundreds of networks of others
        return str(error)


def _row(one: Known, measured: Measured | str | None) -> dict[str, object]:
    if measured is None or isinstance(measured, str):
        return one.row() | {"input": None, "layers": None, "seconds": None, "why_not": measured}
    return one.row() | {
        "input": measured.input,
        "layers": measured.layers,
        "seconds": measured.seconds,
        "why_not": None,
    }


def _print(one: Known, measured: Measured | str | None) -> None:
    """The name on a line of its own, whole, however narrow the screen is."""
    out = wide()
    out.print(f"[bold]{escape(one.name)}[/]{f': {one.many} names' if one.many > 1 else ''}", soft_wrap=True)
    facts = {"for": one.modality, "weights": one.how if one.weights == "to install" else f"{one.weights}: {one.how}"}
    if isinstance(measured, str):
        facts["not here"] = measured
    elif measured:
        facts["reads"] = measured.input
        facts["layers"] = ", ".join(f"{layer} ({channels})" for layer, channels in measured.layers.items())
        if measured.seconds is not None:
            facts["seconds a window"] = f"{measured.seconds:.3f}"
    facts["licence"] = one.licence
    for what, says in facts.items():
        out.print(Padding(f"{what}: {escape(says)}", (0, 0, 0, 2), expand=False), highlight=False)
