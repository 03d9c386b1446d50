"""Dask's clients: of worker processes that are started here, or of a cluster that runs already."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from typing import Any

from rich.markup import escape

from pipeline.compute.progress import console

WAIT_S = 600.0
"""So long a cluster may take to bring its first worker."""

# glibc's allocator, else, gives a large block back as soon as it is free, and the kernel clears its pages anew for the
# next one: a quarter of the time of EfficientNet-Lite0's forward pass.
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # workers compute in a thread, and arenas of threads cannot keep large blocks
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}


class SchedulerError(RuntimeError):
    """A cluster cannot be used, or not any more; the message names its scheduler and the way out."""


def gone(address: str, why: str) -> SchedulerError:
    """The error of a scheduler that was there before."""
    return SchedulerError(
        f"the scheduler {address} is gone ({why}). What was finished is kept: start a scheduler and workers again, and "
        "run the command again"
    )


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Says which scheduler it was when a call to it fails."""
    try:
        yield
    except (OSError, CancelledError) as error:
        raise gone(address, str(error).partition("\n")[0] or type(error).__name__) from None


@contextmanager
def cluster_client(address: str) -> Iterator[Any]:
    """A client of the scheduler; raises SchedulerError where it cannot be reached."""
    from distributed import Client
    from distributed.security import Security

    for part in ("batched", "client"):
        logging.getLogger(f"distributed.{part}").setLevel(logging.CRITICAL)  # what it logs is raised, too
    if address.startswith("tls://") and not Security().get_connection_args("client").get("ssl_context"):
        raise SchedulerError(
            f"the scheduler {address} wants a certificate: name yours in Dask's settings (distributed.comm.tls; see "
            "docs/scale.md)"
        )
    if not (address.startswith("tls://") or _is_here(address)):
        console.print(
            f"[yellow]warning:[/] whoever can reach {escape(address)} can run programs as you on every worker: "
            "tcp:// asks for no credentials. Use tls:// (docs/scale.md)",
            soft_wrap=True,
        )
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise SchedulerError(
            f"the scheduler {address} cannot be reached ({error}): start one with `dask scheduler`, or correct "
            "--scheduler (compute.scheduler), for example tls://10.0.0.1:8786"
        ) from None
    with client:
        console.print(f"[dim]workers: those of {address}; dashboard {client.dashboard_link}", soft_wrap=True)
        yield client


def wait_for_worker(client: Any, address: str) -> None:
    """Returns when the scheduler has a worker; raises SchedulerError where it has none within WAIT_S."""
    with reaching(address):
        if client.nthreads():
            return
        console.print(f"waiting for workers of {address}", soft_wrap=True)
        try:
            # An adaptive cluster starts them for tasks only. This one goes before those that wait for a worker, too.
            client.submit(int, pure=False, priority=1).result(timeout=WAIT_S)
        except TimeoutError:
            raise SchedulerError(
                f"the scheduler {address} has had no worker for {WAIT_S:g} s: start some with `dask worker "
                f"{address}`, and run the command again"
            ) from None


def _is_here(address: str) -> bool:
    """Whether only this machine can reach the scheduler."""
    protocol, _, place = address.rpartition("://")
    host = place.rpartition(":")[0].strip("[]")
    with suppress(ValueError):
        return protocol == "inproc" or ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def local_client(workers: int, threads: int, gpus: Sequence[str] = ()) -> Iterator[Any]:
    """A client of so many worker processes on this machine, each with so many threads to compute with.

    gpus: as CUDA_VISIBLE_DEVICES names them; each worker sees one of them, in turn.

    They talk by TLS with a certificate of their own: other users of this machine reach their ports, too, and a
    scheduler runs what it is sent. Their folder is one that nobody else can have made before, as Dask's usual one is:
    it holds pickles.
    """
    import dask
    from distributed import Client, LocalCluster, Nanny
    from distributed.security import Security

    def on_gpu(scheduler: str, **options: Any) -> Nanny:
        return Nanny(scheduler, env={"CUDA_VISIBLE_DEVICES": gpus[options["name"] % len(gpus)]}, **options)

    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    settings = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.profile.enabled": False,  # it looks at every thread's stack 100 times a second
        # A worker that outgrows its share is replaced; one that only waits for memory could wait for ever.
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
    }
    with (
        _environment(environment | KEEP_FREED_MEMORY),
        tempfile.TemporaryDirectory(prefix="bmnas-", dir=dask.config.get("temporary-directory")) as folder,
        dask.config.set(settings | {"temporary-directory": folder}),
        ExitStack() as opened,
    ):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit="auto",  # an equal share of the machine's (or the container's) memory
            processes=True,
            worker_class=on_gpu if gpus else Nanny,
            host="127.0.0.1",
            security=Security.temporary(),
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # what a task raises comes back with its result
        )
        opened.callback(_close, cluster)
        client = Client(cluster)
        opened.callback(_close, client)
        share = min((spec["memory_limit"] for spec in client.scheduler_info()["workers"].values()), default=0)
        console.print(
            f"[dim]workers: {workers} processes of {threads} threads and {share / 2**30:.1f} GiB; "
            f"dashboard {cluster.dashboard_link}",
            soft_wrap=True,
        )
        yield client


def _close(part: Any) -> None:
    """Ends it. On a busy machine it may not end in time, which is no error of what was done: it ends with us."""
    with suppress(TimeoutError):
        part.close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for processes that start inside, also for those that replace a dead one.

    Here, for workers have them before they import torch, when Dask's own settings would give way to the user's: an
    OMP_NUM_THREADS of the shell is this process's, and workers share the cores as --workers says.
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
