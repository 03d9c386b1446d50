"""`bmnas params`: what params.yaml may say, for editors and for people."""

from __future__ import annotations

import json

import typer

app = typer.Typer(
    name="params",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="What params.yaml may say: for editors, and for people.",
)


@app.command("schema", epilog="Example: [bold]bmnas params schema > docs/params.schema.json[/bold]")
def schema() -> None:
    """Print the JSON Schema of params.yaml: every key, its meaning, its default and what is allowed."""
    from pipeline.params import params_schema

    print(json.dumps(params_schema(), indent=2))


@app.command("table", epilog="Example: [bold]bmnas params table > docs/params.md[/bold]")
def table() -> None:
    """Print every key of params.yaml with its default and its meaning, as a table in Markdown."""
    from pipeline.params import params_table

    print(params_table(), end="")
