"""`bmnas doctor`: what this machine has, and what holds hostile files here."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer()


@app.command(
    epilog="Example: [bold]bmnas doctor --json > machine.json[/bold]   (to be sent along with a report of a fault)"
)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Show what this machine has, and whether the wall around the decoder of media files stands here.

    It starts a decoder as the stages do and asks it what it may do. docs/security.md says what each line means. Exits
    with 1 where nothing but limits would hold a codec that a hostile file has taken over.
    """
    from pipeline.compute.doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for title, rows in _tables(found):
            table = Table("", "", title=title, title_justify="left", show_header=False)
            table.columns[1].overflow = "fold"
            for name, value in rows.items():
                table.add_row(name, value)
            Console().print(table)
    if not found["wall"]["filtered"]:
        raise typer.Exit(1)


def _tables(found: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    wall, machine = found["wall"], found["machine"]
    limits = wall["limits"]
    size = {name: f"{limits[name] / 2**30:.1f} GiB" if limits[name] >= 0 else "none" for name in limits}
    return [
        (
            "The wall around the decoder",
            {
                "system calls": _yes(wall["filtered"], "a list of those it needs (seccomp)", wall["why_not_filtered"]),
                "network, root folder": _yes(wall["separated"], "empty ones (namespaces)", wall["why_not_separated"]),
                "no new privileges": "yes" if wall["no_new_privs"] else "[red]no[/]",
                "memory": size["memory_bytes"],
                "each output": size["output_bytes"],
                "core": f"{limits['cpu_s']} s a file",
                "open files, processes": f"{limits['files']}, {limits['processes']}",
            },
        ),
        (
            "ffmpeg's libraries behind it",
            {
                "version": wall["ffmpeg"],
                "libraries": ", ".join(f"{name} {version}" for name, version in wall["libraries"].items()),
                "codecs": ", ".join(wall["codecs"]),
            },
        ),
        ("This machine", {name.replace("_", " "): str(value) for name, value in machine.items()}),
        ("Packages", found["packages"]),
    ]


def _yes(there: bool, what: str, why_not: str) -> str:
    return what if there else f"[red]not held[/]: {why_not}"
