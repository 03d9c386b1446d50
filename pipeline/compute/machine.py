"""What this machine has: its device, memory and cores."""

from __future__ import annotations

import os

from pipeline.params import ComputeParams


def device_of(compute: ComputeParams) -> str:
    """ "cpu" or "cuda"."""
    import torch

    if compute.device != "auto":
        return compute.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def free_bytes(compute: ComputeParams) -> int:
    """Bytes that are free here: of the GPU, or of the memory that this machine or container may use."""
    if device_of(compute) == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil
    from distributed.system import MEMORY_LIMIT

    memory = psutil.virtual_memory()
    return int(min(memory.available, MEMORY_LIMIT - psutil.Process().memory_info().rss))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
