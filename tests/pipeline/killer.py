"""A stage's work that kills its process. It imports no torch: each death costs a new process, which imports this."""

import os
import signal
from pathlib import Path

import numpy as np

from cache_schemas.shards import ClipResult
from pipeline.params import Params
from pipeline.shards.stage import ClipJob


def die_on_the_third(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """What a decoder's crash would do, were it in the worker."""
    if job.clip.path == "03.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return live(job, path, params)


def live(job: ClipJob, path: Path, params: Params) -> ClipResult:
    """The same, where there is memory enough."""
    assert path.stat().st_size > 0
    rate = params.spectrograms.sample_rate_hz
    arrays = {"spectrogram": np.ones((1, 80, 400), np.float32), "waveform": np.ones((1, 4 * rate), np.int16)}
    return ClipResult(job.clip.clip_id, job.plan, (0.0,), arrays)
