"""What the commands share: options, the console, and parameters as the command line changed them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.workspace import Workspace

console = Console(stderr=True, soft_wrap=True)
"""For messages: a line of any length is one line, so that a path can be copied."""

ParamsFile = Annotated[Path, typer.Option("--params", help="the parameters of every stage", metavar="FILE")]
Work = Annotated[Path, typer.Option("--work", help="folder of all results", metavar="FOLDER")]
Scheduler = Annotated[
    str,
    typer.Option("--scheduler", help="address of a running Dask scheduler; else workers start here", metavar="ADDRESS"),
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        help="where files wait for the scheduler's workers, if these do not see this machine's folders: "
        "s3://BUCKET/FOLDER or file:///FOLDER",
        metavar="URL",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="worker processes on this machine; 0: one per core, 1: this process"),
]
Retry = Annotated[bool, typer.Option("--retry", help="try again every clip that failed, whatever it failed for")]
Prune = Annotated[
    bool, typer.Option("--prune", help="when all is well, delete the shards of other parameters and of removed clips")
]
Network = Annotated[Literal["fusion", "visual", "audio"], typer.Option(help="which entry of a run's file")]
PARAMS, WORK = Path("params.yaml"), Path("work")


def number(*names: str, low: float, high: float | None = None, **about: Any) -> Any:
    """An option for numbers; of NaN, which is in any range, and infinity the range is told, too."""

    def finite(value: float | None) -> float | None:
        if value is None or math.isfinite(value):
            return value
        raise typer.BadParameter(
            f"{value}; allowed: a number, {f'at least {low:g}' if high is None else f'{low:g} to {high:g}'}"
        )

    return typer.Option(*names, min=low, max=high, callback=finite, **about)


def wide(columns: int = 160) -> Console:
    """For tables: so wide where it is no terminal that says how wide it is."""
    return Console(width=None if Console().is_terminal else columns)


def setup(
    params_file: Path, work: Path, scheduler: str = "", workers: int | None = None, store: str = ""
) -> tuple[Workspace, Params]:
    """The results' folder and the parameters, as the command line changed them."""
    from pipeline.params import ParamsError, load_params
    from pipeline.workspace import Workspace

    params = load_params(params_file)
    given = {"scheduler": scheduler or None, "workers": workers, "store": store or None}
    compute = params.compute.model_copy(update={name: value for name, value in given.items() if value is not None})
    if store and not compute.scheduler:
        raise ParamsError(
            f"--store {store} is for the workers of a cluster: give its --scheduler, too, or leave it out"
        )
    return Workspace(work), params.model_copy(update={"compute": compute})
