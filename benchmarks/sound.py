"""`python -m benchmarks.sound CLIPS...`: the spectrograms stage in one process against librosa after ffmpeg.

Both read the same clips, find the leading silence, cut windows where picture and sound are, and write log-mel
spectrograms and waveforms. librosa's side is what most code of this field does: ffmpeg (the system's where there is
one, else imageio-ffmpeg's) writes a WAV at the track's rate and lists the picture's packets, in one process;
`librosa.load` resamples it; the arrays go to .npz. Without arguments the clips are drawn: 64 of 4 s, mp4.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import librosa
import numpy as np
import torch

from benchmarks.side_by_side import compare, print_figures
from cache_schemas.manifest import write_manifest
from pipeline import media
from pipeline.compute.progress import console
from pipeline.params import SpectrogramParams, WindowParams, parse_params
from pipeline.sound.stage import build_spectrograms
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.test_faults import clip_of

DRAWN = 64


def main() -> None:
    """Compares and prints."""
    torch.set_num_threads(1)
    console.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = [Path(name).resolve() for name in sys.argv[1:]] or _draw(root)
        workspace = Workspace(root / "work")
        write_manifest(workspace.manifest, [clip_of(Path("/"), path, i) for i, path in enumerate(paths)])
        what = f"spectrograms stage, one process, against librosa after ffmpeg, {len(paths)} clips"
        print_figures([compare(what, lambda: _ours(workspace), lambda: _theirs(paths), goal=5)])


def _draw(root: Path) -> list[Path]:
    """One clip under many names: the stage does not look for copies."""
    picture = "testsrc=s=320x240:r=25"
    drawn = make_clip(root / "drawn.mp4", picture=picture, sound="anoisesrc=a=0.2:r=44100", seconds=4.0)
    paths = [root / f"{i}.mp4" for i in range(DRAWN)]
    for path in paths:
        path.hardlink_to(drawn)
    return paths


def _ours(workspace: Workspace) -> None:
    shutil.rmtree(workspace.spectrograms, ignore_errors=True)
    build_spectrograms(workspace, parse_params(_settings(Path("/")), source="benchmark"))


def _settings(base: Path) -> dict[str, object]:
    compute = {"workers": 1}
    return {"data": {"root": str(base), "layout": "csv"}, "compute": compute, "max_failed_fraction": 1.0}


def _theirs(paths: list[Path]) -> None:
    params, windows = SpectrogramParams(), WindowParams()
    exe = shutil.which("ffmpeg") or media.ffmpeg_exe()
    with tempfile.TemporaryDirectory() as folder:
        for i, path in enumerate(paths):
            wav = Path(folder) / f"{i}.wav"
            outputs = ["-map", "0:a:0", str(wav), "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-"]
            told = subprocess.run([exe, "-v", "error", "-y", "-i", path, *outputs], stdout=subprocess.PIPE, check=False)  # noqa: S603
            if not wav.exists():
                continue
            samples, rate = librosa.load(wav, sr=params.sample_rate_hz)
            length = min(len(samples), round(_picture_seconds(told.stdout.decode()) * rate))
            _, (start, _) = librosa.effects.trim(samples, top_db=windows.silence_db, frame_length=320, hop_length=160)
            size = round(windows.window_s * rate)
            whole = max(1, (length - start + rate // 20) // size)
            waves = [np.resize(samples[start + w * size :][:size], size) for w in range(min(whole, 8))]
            mels = [
                np.log(
                    librosa.feature.melspectrogram(
                        y=wave, sr=rate, n_fft=512, hop_length=160, win_length=400, n_mels=80, htk=True, norm=None
                    )
                    + 1e-6
                )
                for wave in waves
            ]
            pcm = (np.stack(waves) * 32767).astype(np.int16)
            np.savez(Path(folder) / f"{i}.npz", spectrogram=np.stack(mels), waveform=pcm)
            wav.unlink()


def _picture_seconds(listed: str) -> float:
    """From framecrc's lines: track, dts, pts, duration, ..."""
    tick = re.search(r"#tb 0: (\d+)/(\d+)", listed)
    if tick is None:
        return 0.0
    stamps = [line.split(",") for line in listed.splitlines() if line and line[0] != "#"]
    pts = [int(stamp[2]) for stamp in stamps]
    last = max(int(stamp[2]) + int(stamp[3]) for stamp in stamps)
    return (last - min(pts)) * int(tick[1]) / int(tick[2])


if __name__ == "__main__":
    main()
