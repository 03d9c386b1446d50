"""`bmnas serve`: a detector that answers over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.detector import Key, Sealed, check_given, public_of
from pipeline.cli.options import WORK, Work, number

app = typer.Typer()


@app.command(
    epilog="Example: [bold]bmnas serve --bundle detector.bmnas[/bold], then open http://127.0.0.1:8000\n\n"
    "From a shell: [bold]curl -F file=@clip.mp4 http://127.0.0.1:8000/v1/score[/bold]\n\n"
    "For others, behind a proxy that does TLS: "
    "[bold]bmnas serve --bundle detector.bmnas --host 0.0.0.0 --tokens tokens.txt[/bold]"
)
def serve(
    work: Work = WORK,
    bundle: Sealed = None,
    key: Key = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; another than this machine's own needs tokens", metavar="HOST")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any")] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="who may ask: a file of tokens, one a line; BMNAS_TOKENS may hold some, too, with blanks between. "
            "None: anybody on this machine",
            metavar="FILE",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="files below this folder may be asked for by their path; else only uploads", metavar="FOLDER"
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="clips scored at once, each by a process; 0: one per core")] = 0,
    max_mb: Annotated[int, typer.Option(min=1, help="megabytes of an upload, at most")] = 500,
    max_minutes: Annotated[float, number(low=0.01, high=480, help="minutes of a clip, at most")] = 60,
    time_limit: Annotated[
        float,
        number(low=1, help="seconds of work on a clip; then its process is killed", metavar="S"),
    ] = 900,
    queue: Annotated[int, typer.Option(min=0, help="clips that may wait; beyond, the answer is 503")] = 16,
    keep: Annotated[float, number(low=1, help="seconds that results are kept", metavar="S")] = 3600,
    spool: Annotated[
        Path | None,
        typer.Option(
            help="uploads lie in the folder bmnas-serve of this one until they are scored; by default in that of "
            "temporary files",
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Answer over HTTP, and by a page to drop a video on, how strong the evidence is that a clip is fake.

    POST /v1/score takes a clip and names a job; GET /v1/jobs/ID has its result, with the keys of `predict --json`;
    /openapi.json describes it all, docs/serve.md how to run it. Uploads lose their names, and are deleted when they are
    scored; a service that was killed deletes what it left when it starts again. Ends on Ctrl-C or SIGTERM.
    """
    from pipeline.compute.machine import cores
    from pipeline.serve.run import serve as run
    from pipeline.serve.settings import TOKENS, Settings, read_tokens
    from pipeline.serve.spool import default_spool

    check_given(work, bundle, key)
    settings = Settings(
        spool=spool or default_spool(),
        root=root,
        tokens=read_tokens(tokens, os.environ.get(TOKENS, "")),
        workers=workers or cores(),
        max_bytes=max_mb * 1_000_000,
        max_duration_s=max_minutes * 60,
        time_limit_s=time_limit,
        queue=queue,
        keep_s=keep,
    )
    run(settings, bundle or work, public_key=public_of(key), host=host, port=port)
