"""The page docs/commands.md, out of the commands themselves: `make docs` writes it."""

from __future__ import annotations

import html
import re

import typer
from typer.cli import get_docs_for_click

from pipeline.cli import app


def commands_page() -> str:
    """Every command with its arguments, options and defaults, in Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="bmnas")
    page = html.unescape(get_docs_for_click(obj=command, ctx=context, name="bmnas"))
    page = re.sub(r"<span[^>]*>(.*?)</span>|\[bold\](.*?)\[/bold\]", lambda found: f"`{found[1] or found[2]}`", page)
    page = re.sub(r"^\* `--help`: .*\n", "", page, flags=re.MULTILINE)
    page = re.sub(r"\*\*Options\*\*:\n\n(?!\*)|\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", page)
    return page.replace(
        "# `bmnas`", "# Commands\n\n`make docs` writes this page; `bmnas COMMAND --help` says the same.", 1
    )


if __name__ == "__main__":
    print(commands_page(), end="")
