"""Write a data set: only the clips that are missing, the manifest last."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pipeline.synth.clip import PARTIAL_SUFFIX, render_clip
from pipeline.synth.plan import MANIFEST_COLUMNS, ClipSpec, plan_clips

# Part of the stored parameters: raise it with every change that alters pixels or samples.
GENERATOR_VERSION = 1
_OURS = re.compile(r"id\d{5,}_t\d{4,}_[FR]V[FR]A\.mp4(\.wav)?(" + re.escape(PARTIAL_SUFFIX) + ")?")


def generate(
    root: Path,
    *,
    identities: int = 16,
    clips_per_identity: int = 8,
    difficulty: float = 0.3,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        progress: called with (clips done, clips in all) at the start and whenever a clip is finished.
    """
    workers = (os.cpu_count() or 1) if jobs is None else jobs
    _check(identities, clips_per_identity, difficulty, seed, workers)
    specs = plan_clips(
        identities=identities, clips_per_identity=clips_per_identity, difficulty=float(difficulty), seed=seed
    )
    params = {"difficulty": float(difficulty), "generator_version": GENERATOR_VERSION, "seed": seed}
    folder, manifest = root / "clips", root / "manifest.csv"
    folder.mkdir(parents=True, exist_ok=True)
    stored = root / "params.json"
    same_params = _read_params(stored) == params
    work = plan_work(specs, {p.name for p in folder.iterdir()}, same_params=same_params)
    if work.remove or not same_params:
        # A manifest never names a clip that is gone, and new parameters are stored when no old clip is left.
        manifest.unlink(missing_ok=True)
        for name in work.remove:
            (folder / name).unlink(missing_ok=True)
    _write(stored, json.dumps(params, indent=2) + "\n")
    _render(work.render, folder, workers, len(specs), progress)
    _write(manifest, _manifest_text(specs))
    return manifest


@dataclass(frozen=True)
class Work:
    """What one call has to do: clips to render and file names to remove first."""

    render: tuple[ClipSpec, ...]
    remove: tuple[str, ...]


def plan_work(specs: list[ClipSpec], present: set[str], *, same_params: bool) -> Work:
    """Work that turns the files `present` in the clips folder into the clips of `specs`."""
    wanted = {spec.file_name for spec in specs}
    kept = wanted & present if same_params else set()
    # Only names that this generator writes, partial ones included: somebody else's file is not ours to remove.
    remove = sorted(name for name in present - kept if _OURS.fullmatch(name))
    return Work(tuple(spec for spec in specs if spec.file_name not in kept), tuple(remove))


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


def _read_params(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _render(
    specs: tuple[ClipSpec, ...],
    folder: Path,
    jobs: int,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    report = progress or (lambda _done, _total: None)
    done = total - len(specs)
    report(done, total)
    if jobs == 1 or len(specs) < 2:
        for count, spec in enumerate(specs, done + 1):
            render_clip(spec, folder)
            report(count, total)
        return
    # Spawned, not forked: the caller may already run decoder or torch threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(specs)), mp_context=context) as pool:
        futures = [pool.submit(render_clip, spec, folder) for spec in specs]
        try:
            for count, future in enumerate(as_completed(futures), done + 1):
                future.result()
                report(count, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _manifest_text(specs: list[ClipSpec]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, MANIFEST_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(spec.row() for spec in specs)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)
