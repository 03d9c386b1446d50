"""`make bench-preprocessing`: the first stages, end to end, against facenet-pytorch frame by frame and librosa.

python -m benchmarks.preprocessing [how many clips of realset]
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import av
import facenet_pytorch
import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.faces import their_faces
from benchmarks.real_clips import DEVELOPMENT, REALSET, listed_clips
from benchmarks.side_by_side import Figure, print_figures

CLIPS, THEIRS_EVERY = 100, 10


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        print_figures([preprocessing(Path(folder), int(sys.argv[1]) if sys.argv[1:] else CLIPS)])


def preprocessing(folder: Path, clips: int) -> Figure:
    """The first stages on so many clips, by their commands, against MTCNN frame by frame in one process.

    Theirs is done for every THEIRS_EVERY-th of the clips and multiplied: frame by frame, time is linear in the clips.
    """
    root, work, settings = folder / "clips", folder / "work", folder / "params.yaml"
    listed = listed_clips()
    paths = [REALSET / str(path) for path in listed.path[~listed.clip_id.isin(DEVELOPMENT)]]
    paths = paths[:: max(1, len(paths) // clips)][:clips]
    for i, path in enumerate(paths):  # who is real makes no difference here, but the layout wants both
        target = root / ("real", "fake")[i % 2] / path.stem
        target.mkdir(parents=True)
        shutil.copy(path, target)
    settings.write_text(json.dumps({"data": {"layout": "folders", "root": str(root)}}))
    detector, some = facenet_pytorch.MTCNN(), paths[::THEIRS_EVERY]
    start = time.perf_counter()
    for command in ("manifest", "spectrograms", "faces"):
        given = ["--params", str(settings), "--work", str(work)]
        subprocess.run([sys.executable, "-m", "pipeline.cli", command, *given], check=True)  # noqa: S603
    middle = time.perf_counter()
    torch.set_num_threads(os.cpu_count() or 1)
    for path in some:
        preprocess_theirs(path, detector, folder / "theirs")
    ours, theirs = middle - start, (time.perf_counter() - middle) * len(paths) / len(some)
    name = f"preprocessing {len(paths)} clips, end to end; theirs from {len(some)} of them"
    return Figure(name, 20, ours, theirs)


def preprocess_theirs(path: Path, detector: facenet_pytorch.MTCNN, folder: Path) -> None:
    """Every frame's crop and the spectrogram of one clip."""
    target = folder / path.stem
    target.mkdir(parents=True)
    for i, (image, box) in enumerate(their_faces(path, detector)):
        if box is not None:
            side = 1.3 * (box[2:] - box[:2]).max()
            corner = (box[:2] + box[2:] - side) / 2
            crop = image.crop((*corner, *(corner + side))).resize((224, 224), Image.Resampling.BILINEAR)
            crop.save(target / f"{i:04d}.png")
    with contextlib.suppress(IndexError):  # a clip without sound
        sound = their_sound(path)
        np.save(target / "mel.npy", librosa.power_to_db(librosa.feature.melspectrogram(y=sound, sr=16000)))


def their_sound(path: Path) -> NDArray[np.float32]:
    """16 kHz mono, by PyAV and librosa."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        to_float = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        pieces = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in to_float.resample(frame)]
    return np.asarray(librosa.resample(np.concatenate(pieces), orig_sr=rate, target_sr=16000))


if __name__ == "__main__":
    main()
