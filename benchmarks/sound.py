"""`python -m benchmarks.sound CLIPS...`: the spectrograms stage against librosa after ffmpeg, in one process each.

Both read the same clips, find the leading silence, cut windows, and write log-mel spectrograms and waveforms. librosa's
side is what most code of this field does: ffmpeg (the system's where there is one, else imageio-ffmpeg's) writes a WAV
at the track's rate, `librosa.load` resamples it, the picture's length comes from a second ffmpeg, the arrays go
to .npz. Without arguments the clips are drawn: 24 of 4 s, mp4.
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

from benchmarks.side_by_side import compare, publish
from cache_schemas.manifest import write_manifest
from pipeline import media
from pipeline.params import SpectrogramParams, WindowParams, parse_params
from pipeline.spectrograms import build_spectrograms
from pipeline.workers import console
from pipeline.workspace import Workspace
from tests.pipeline.clips import make_clip
from tests.pipeline.test_faults import clip_of

DRAWN = 24


def main() -> None:
    """Compares and prints."""
    torch.set_num_threads(1)
    console.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = [Path(name).resolve() for name in sys.argv[1:]]
        for i in range(0 if paths else DRAWN):
            picture = "testsrc=s=320x240:r=25"
            paths.append(make_clip(root / f"{i}.mp4", picture=picture, sound="anoisesrc=a=0.2:r=44100", seconds=4.0))
        figures = [
            compare(
                f"spectrograms stage, one process, {len(paths)} clips: {what}",
                lambda: _ours(root, paths),
                lambda twice=twice: _theirs(paths, twice=twice),
                goal=5,
            )
            for what, twice in (("librosa, sound only", False), ("librosa, with the picture's length", True))
        ]
        publish("sound", figures)


def _ours(root: Path, paths: list[Path]) -> None:
    with tempfile.TemporaryDirectory(dir=root) as folder:
        base = Path("/")
        workspace = Workspace(Path(folder))
        write_manifest(workspace.manifest, [clip_of(base, path, i) for i, path in enumerate(paths)])
        build_spectrograms(workspace, parse_params(_settings(base), source="benchmark"))


def _settings(base: Path) -> dict[str, object]:
    compute = {"workers": 1}
    return {"data": {"root": str(base), "layout": "csv"}, "compute": compute, "max_failed_fraction": 1.0}


def _theirs(paths: list[Path], *, twice: bool) -> None:
    params, windows = SpectrogramParams(), WindowParams()
    exe = shutil.which("ffmpeg") or media.ffmpeg_exe()
    with tempfile.TemporaryDirectory() as folder:
        for i, path in enumerate(paths):
            wav = Path(folder) / f"{i}.wav"
            subprocess.run([exe, "-v", "error", "-y", "-i", path, "-vn", wav], check=False)  # noqa: S603
            if not wav.exists():
                continue
            samples, rate = librosa.load(wav, sr=params.sample_rate_hz)
            length = len(samples)
            if twice:
                told = subprocess.run([exe, "-i", path], capture_output=True, check=False).stderr  # noqa: S603
                found = re.search(rb"Duration: (\d+):(\d+):([\d.]+)", told)
                if found:
                    seconds = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
                    length = min(length, round(seconds * rate))
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


if __name__ == "__main__":
    main()
