"""Write a data set: only the clips that are missing, the manifest last."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from cache_schemas.files import replacing, write_text
from pipeline.synth.clip import render_clip
from pipeline.synth.plan import ClipSpec, plan_clips

# Part of the stored parameters: raise it with every change that alters pixels or samples.
GENERATOR_VERSION = 1
# Clips, and what a killed run leaves; the version before left NAME.partial.
_OURS = re.compile(r"\.?id\d{5,}_t\d{4,}_[FR]V[FR]A\.mp4((\.wav)?\.partial|\.\w+\.(tmp|wav))?")


def generate(
    root: Path,
    *,
    identities: int = 16,
    clips_per_identity: int = 8,
    difficulty: float = 0.3,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int], None] = lambda _clips: None,
) -> Path:
    """Path of the manifest of a synthetic data set below `root`, made or completed by this call.

    Clips that exist are kept if they were made with the same seed and difficulty by the same generator
    version; a larger data set only adds clips, a smaller one removes what it no longer lists.

    Args:
        root: folder; clips go to `root/clips`, the manifest to `root/manifest.csv`.
        identities: subjects; 2k and 2k + 1 lend each other face and voice.
        clips_per_identity: clips of each subject; four make one take, one clip per category.
        difficulty: 0 (crude fakes) to 1 (hardly any trace).
        seed: the same seed gives the same pixels and samples, whatever `jobs` is; with the same ffmpeg build
            also the same bytes.
        jobs: worker processes, by default one per core. They are spawned: a script that calls this with more
            than one needs the usual `if __name__ == "__main__"`.
        progress: called with the number of clips that are there at the start, and with 1 whenever one is finished.
    """
    workers = (os.cpu_count() or 1) if jobs is None else jobs
    _check(identities, clips_per_identity, difficulty, seed, workers)
    specs = plan_clips(
        identities=identities, clips_per_identity=clips_per_identity, difficulty=float(difficulty), seed=seed
    )
    params = {"difficulty": float(difficulty), "generator_version": GENERATOR_VERSION, "seed": seed}
    text = json.dumps(params, indent=2) + "\n"
    folder, manifest = root / "clips", root / "manifest.csv"
    folder.mkdir(parents=True, exist_ok=True)
    stored = root / "params.json"
    same_params = stored.exists() and stored.read_bytes() == text.encode()
    missing, unwanted = plan_work(specs, {p.name for p in folder.iterdir()}, same_params=same_params)
    if unwanted or not same_params:
        # A manifest never names a clip that is gone, and new parameters are stored when no old clip is left.
        manifest.unlink(missing_ok=True)
        for name in unwanted:
            (folder / name).unlink(missing_ok=True)
    write_text(stored, text)
    progress(len(specs) - len(missing))
    for _ in _rendered(missing, folder, workers):
        progress(1)
    with replacing(manifest) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(specs[0].row()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(spec.row() for spec in specs)
    return manifest


def plan_work(specs: list[ClipSpec], present: set[str], *, same_params: bool) -> tuple[list[ClipSpec], list[str]]:
    """(clips to render, file names to remove first): what turns `present` in the clips folder into the `specs`."""
    wanted = {spec.file_name for spec in specs}
    kept = wanted & present if same_params else set()
    # Only names that this generator writes, partial ones included: somebody else's file is not ours to remove.
    remove = sorted(name for name in present - kept if _OURS.fullmatch(name))
    return [spec for spec in specs if spec.file_name not in kept], remove


def _check(identities: int, clips_per_identity: int, difficulty: float, seed: int, jobs: int) -> None:
    for name, value, least in (
        ("identities", identities, 1),
        ("clips_per_identity", clips_per_identity, 1),
        ("seed", seed, 0),
        ("jobs", jobs, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value}, allowed are whole numbers from {least}")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty is {difficulty}, allowed are numbers from 0 (crude) to 1 (hardly visible)")


def _rendered(specs: list[ClipSpec], folder: Path, jobs: int) -> Iterator[str]:
    """The name of each clip when it is there."""
    if jobs == 1 or len(specs) < 2:
        yield from (render_clip(spec, folder) for spec in specs)
        return
    # Spawned, not forked: the caller may already run decoder or torch threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(specs)), mp_context=context) as pool:
        futures = [pool.submit(render_clip, spec, folder) for spec in specs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
