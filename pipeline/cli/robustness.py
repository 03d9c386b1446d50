"""Command `robustness`: how a trained run does on test clips that are degraded."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cli.options import PARAMS, WORK, ParamsFile, Scheduler, Work, Workers, setup, wide

app = typer.Typer()


@app.command(epilog="Example: [bold]bmnas robustness --only h264,mp3,shift --clips 100[/bold]   (then open the figure)")
def robustness(
    params: ParamsFile = PARAMS,
    work: Work = WORK,
    only: Annotated[
        str,
        typer.Option(
            help="some of h264, scale, blur, noise, brightness, saturation (picture), mp3, opus, white-noise, "
            "band-limit, pitch, reverb (sound), shift (sound late), crop, silence-kept (other windows)",
            metavar="NAME,NAME",
            show_default="all",
        ),
    ] = "",
    severities: Annotated[
        str, typer.Option(help="some of 1 (mild) to 5 (severe)", metavar="N,N", show_default=True)
    ] = "1,2,3,4,5",
    clips: Annotated[
        int,
        typer.Option(min=0, help="at most so many test clips, as many real as fake, drawn by the seed; 0: all"),
    ] = 0,
    scheduler: Scheduler = "",
    workers: Workers = None,
) -> None:
    """Degrade the test clips as platforms, phones and rooms do, and see how far the AUC falls.

    The trained networks and the linear probe score the same clips at up to five severities of each degradation: picture
    or sound is degraded by ffmpeg, faces are found anew, and the features of what was not touched come from the cache,
    in the same windows. A crop and untrimmed silence give other windows of both. A clip that some severity makes
    unusable (no face any more) is left out of that whole curve, so that its points are of the same clips, and is named.

    Writes work/robustness: robustness.svg, robustness.csv, scores.csv, robustness.json. A point takes about as long as
    `bmnas faces` and `bmnas features` on the test clips; what is finished is kept in work/runs: a killed run goes on
    where it was, and more clips or severities repeat nothing.
    """
    from pipeline.robustness.plan import Question
    from pipeline.robustness.stage import run_robustness

    workspace, settings = setup(params, work, scheduler, workers)
    result = run_robustness(workspace, settings, Question.parse(only, severities, clips))
    _print(result)
    Console().print(f"robustness: {escape(str((workspace.robustness / 'robustness.svg').resolve()))}", soft_wrap=True)


def _print(result: dict[str, Any]) -> None:
    from pipeline.statistics.systems import FUSION, PROBE
    from pipeline.statistics.values import in_figures, spans

    levels = sorted({point["severity"] for curve in result["curves"] for point in curve["severities"]})
    over = spans(next(iter(result["clean"].values()))["auc"])
    title = f"Clip AUC, {over}: {result['clips']} test clips of {result['people']} people"
    shown = Table(title=title)
    for name in ("degradation", "clips", "system", "as it is", *(f"severity {level}" for level in levels)):
        shown.add_column(name, justify="left" if name in ("degradation", "system") else "right")
    for curve in result["curves"]:
        points = {point["severity"]: point for point in curve["severities"]}
        settings = f"{points[min(points)]['setting']} to {points[max(points)]['setting']}"
        places = [f"{curve['title']}, {settings}", str(points[min(points)]["clips"])]
        for system in (name for name in (FUSION, PROBE) if name in curve["clean"]):
            values = [curve["clean"], *(points[at]["systems"] if at in points else {} for at in levels)]
            texts = (in_figures(of[system]) if of else "" for of in values)
            shown.add_row(*map(escape, places), escape(system), *texts)
            places = ["", ""]
    out = wide(200)
    out.print(shown)
    for curve in result["curves"]:
        reasons = [each["reason"] for each in result["left_out"] if each["degradation"] == curve["degradation"]]
        if reasons:
            out.print(escape(f"{curve['title']}: {len(reasons)} clips left out, as: {reasons[0]}"), soft_wrap=True)
