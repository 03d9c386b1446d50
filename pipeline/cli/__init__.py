"""The command `bmnas`: one subcommand per stage. Exit code 0: done, 1: the work failed, 2: wrong usage."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Annotated

import typer
from rich.markup import escape

# OpenMP threads that spin while they wait for one another make torch five times slower as soon as any other process
# wants a core. Must be set before torch is imported; Dask workers inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Each command imports its stage itself: `bmnas --help` would otherwise wait two seconds for torch.
from cache_schemas.paths import plain_text
from pipeline.cli import backbones, cache, detector, doctor, experiments, genotype, params, robustness, serve, stages
from pipeline.cli.options import console


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"bmnas {version_of('bmnas')}")
        raise typer.Exit


app = typer.Typer(
    name="bmnas",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Search and train audio-visual deepfake detectors over a feature cache that is computed once.\n\n"
        "Each command is one stage; [bold]dvc repro[/bold] runs them all, in order, as far as something changed:\n\n"
        "synth → manifest → spectrograms → faces → (pretrain) → features → search → retrain → evaluate → report"
    ),
)


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None: ...


def _flow(commands: typer.Typer) -> None:
    """Lets the paragraphs of docstrings, wrapped for the source, flow to the width of the terminal as help."""
    groups = [group.typer_instance for group in commands.registered_groups if group.typer_instance]
    for command in commands.registered_commands:
        command.help = _flowing(command.callback)
    for group in groups:
        if group.registered_callback:
            group.registered_callback.help = _flowing(group.registered_callback.callback)
        _flow(group)


def _flowing(function: Callable[..., object] | None) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (inspect.getdoc(function) or "").split("\n\n"))


for group in (stages, detector, serve, experiments, robustness, cache, genotype, params, backbones, doctor):
    app.add_typer(group.app)
_flow(app)


_OURS = ("pipeline", "nas", "cache_schemas")
_EXTRAS = {"onnxruntime": "predict", "onnx": "onnx", "onnxscript": "onnx", "fastapi": "serve", "uvicorn": "serve"}
"""{package: the extra that brings it}, where that is not train."""


def main() -> None:
    """Runs the command line. Errors that our packages raise are for people: one message, no traceback."""
    try:
        app(prog_name="bmnas")  # also as `python -m pipeline.cli`
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        extra = _EXTRAS.get(package, "train")
        way_out = f"install bmnas with its extra `{extra}` (docs/install.md)"
        text = f"this command needs {package}, which is not installed: {way_out}"
        console.print(f"[red]error:[/red] {escape(text)}")
        sys.exit(1)
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in _OURS
        if not ours and not isinstance(error, OSError):
            raise
        said = str(error) or type(error).__name__  # Dask's time-outs say nothing
        lines = map(plain_text, said.split("\n"))  # it may quote anybody's file
        console.print(f"[red]error:[/red] {escape(chr(10).join(lines))}")
        sys.exit(2 if type(error).__name__ == "ParamsError" else 1)
