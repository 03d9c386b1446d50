"""What this machine has: its device, GPUs, memory and cores."""

from __future__ import annotations

import os

from pipeline.params import ComputeParams


def device_of(compute: ComputeParams) -> str:
    """ "cpu" or "cuda"."""
    if compute.device != "auto":
        return compute.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gpus(compute: ComputeParams) -> tuple[str, ...]:
    """The GPUs that are computed on here, as CUDA_VISIBLE_DEVICES names them; none where it is the CPU."""
    if device_of(compute) == "cpu":
        return ()
    import torch

    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return tuple(names.split(",")[:count])


def of_runs(compute: ComputeParams) -> ComputeParams:
    """How runs over the cache are computed: on GPUs in one process each, at most `workers`; else as `compute` says.

    Runs of one process share every kernel; those of several processes on one GPU take turns.
    """
    found = () if compute.scheduler else gpus(compute)
    return compute.model_copy(update={"workers": min(compute.workers or len(found), len(found))}) if found else compute


def free_bytes(compute: ComputeParams) -> int:
    """Bytes that are free here: of the GPU that has least, or of the memory that this machine or container may use."""
    if device_of(compute) == "cuda":
        import torch

        # What torch's allocator keeps of earlier work is free to this process.
        return min(
            torch.cuda.mem_get_info(i)[0] + torch.cuda.memory_reserved(i) - torch.cuda.memory_allocated(i)
            for i in range(torch.cuda.device_count())
        )
    import psutil
    from distributed.system import MEMORY_LIMIT

    memory = psutil.virtual_memory()
    return int(min(memory.available, MEMORY_LIMIT - psutil.Process().memory_info().rss))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
