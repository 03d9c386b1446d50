"""A small made-up run for the tests of measure, evaluate and report: tables first, files when asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

CATEGORIES = ("RVRA", "RVFA", "FVRA", "FVFA")
METHODS = {"RVRA": "real", "RVFA": "rtvc", "FVRA": "faceswap", "FVFA": "wav2lip"}
SPLIT_OF = ("train", "train", "train", "val", "test")


def make_index(*, subjects: int = 20, windows: int = 2, categories: Sequence[str] = CATEGORIES) -> pd.DataFrame:
    """One row a window as in FeatureCache.index: every subject has one clip per category, every fifth is test."""
    random = np.random.default_rng(0)
    rows = []
    for subject in range(subjects):
        for category in categories:
            fake_video, fake_audio = category[0] == "F", category[2:3] == "F"
            clip = {
                "clip_id": f"s{subject:02d}-{category}",
                "path": f"s{subject:02d}/{category}.mp4",
                "label": int(fake_video or fake_audio),
                "video_label": int(fake_video),
                "audio_label": -1 if category.endswith("-") else int(fake_audio),
                "category": category,
                "method": METHODS.get(category, "real" if category == "RV-" else "faceswap"),
                "subject_id": f"s{subject:02d}",
                "dataset": "made-up",
                "split": SPLIT_OF[subject % 5],
                "has_audio": not category.endswith("-"),
                "duration_s": float(random.uniform(4, 9)),
                "leading_silence_s": float(random.uniform(0, 0.2)),
                "loudness_db": float(random.normal(-20, 3)),
                "width_px": 224,
                "height_px": 224,
                "fps": 25.0,
                "file_bytes": int(random.integers(100_000, 900_000)),
            }
            rows += [clip | {"window": window, "start_s": 4.0 * window} for window in range(windows)]
    return pd.DataFrame(rows).assign(row=lambda table: np.arange(len(table)))


def make_scores(
    index: pd.DataFrame, *, seeds: Sequence[int] = (0, 1, 2), networks: Sequence[str] = ("fusion", "visual", "audio")
) -> pd.DataFrame:
    """The rows of scores.csv: fusion sees both kinds of fake, the other two only their own modality's."""
    random = np.random.default_rng(1)
    test = index[index["split"] == "test"]
    seen = {
        "fusion": test["label"],
        "visual": test["video_label"],
        "audio": test["audio_label"].clip(lower=0),
    }
    columns = ["clip_id", "window", "start_s", "subject_id", "category", "method", "label"]
    parts = []
    for network in networks:
        for seed in seeds:
            logits = 2.0 * seen[network] - 1 + random.normal(size=len(test))
            parts.append(test[columns].assign(network=network, seed=seed, score=1 / (1 + np.exp(-logits))))
    return pd.concat(parts, ignore_index=True)
