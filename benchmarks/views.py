"""`make bench-views`: what a view costs. Making one view of a window against the frozen backbones' forward pass over
it, in turn and in one thread, on a drawn window at the default parameters.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from benchmarks.side_by_side import MACHINE
from pipeline.backbones import load_backbone
from pipeline.features.views import sound_view, visual_view
from pipeline.params import Params
from pipeline.sound.clip import compute_spectrogram, from_pcm

RUNS = 40


def main() -> None:
    """Measures RUNS views, each of another key, beside as many forward passes."""
    torch.set_num_threads(1)
    params = Params()
    rng = np.random.default_rng(0)
    size = params.faces.size_px
    picture = gaussian_filter(rng.normal(128, 400, (size, size, 3)), (4, 4, 0), mode="wrap").clip(0, 255)
    crops = np.stack([np.roll(picture.astype(np.uint8), 2 * i, axis=1) for i in range(params.faces.frames)])
    samples = round(params.windows.window_s * params.spectrograms.sample_rate_hz)
    waveform = gaussian_filter(rng.normal(0, 4000, samples), 2).astype(np.int16)
    spectrogram = compute_spectrogram(from_pcm(waveform)[None], params.spectrograms)[0]
    seen, heard = (load_backbone(m, getattr(params.features, m)[0], "cpu") for m in ("visual", "audio"))

    def forward() -> None:
        seen(torch.from_numpy(crops)[None], length=params.features.length)
        heard(torch.from_numpy(spectrogram)[None], length=params.features.length)

    def view(key: str) -> None:
        visual_view(crops, key=key, view=1)
        sound_view(waveform, spectrogram, key=key, view=1, params=params.spectrograms)

    forward(), view("warm")
    pairs = [(_seconds(lambda i=i: view(f"window {i}")), _seconds(forward)) for i in range(RUNS)]
    ours, theirs = (statistics.mean(column) for column in zip(*pairs, strict=True))
    table = Table("mean CPU time of a view", "dearest view", "forward pass", "ratio", "at most", caption=MACHINE)
    dearest = max(seconds for seconds, _ in pairs)
    table.add_row(f"{ours:.4f} s", f"{dearest:.4f} s", f"{theirs:.4f} s", f"{ours / theirs:.1%}", "15 %")
    Console().print(table)


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
