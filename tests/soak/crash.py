"""`make soak-crash`: the features stage, killed (SIGKILL, with all its workers) at random moments, 50 times; then two
runs on one cache at once, 50 times. --kills N and --seed N choose others.

A run is started, killed, started again ... until one finishes before its moment comes. Then its cache must equal that
of an undisturbed run to the bit, `verify` must find nothing and `gc` leave nothing behind; no row that was finished
when a run began may be computed by it. Backbones are so fast that the writer is at work most of the time; moments are
drawn evenly from its four phases. Prints a line per cache and where the kills fell; fails at the first difference.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

from cache_schemas.features import FeatureCache, FeatureCacheWriter
from cache_schemas.features.garbage import collect_garbage
from cache_schemas.features.upkeep import verify
from pipeline.backbones import load_backbone
from pipeline.features.stage import describe
from pipeline.features.windows import window_inputs, window_sources
from pipeline.params import Params
from pipeline.workspace import Workspace
from tests.pipeline.counting import LOG, digest_of, logged
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips
from tests.soak.marked_run import PHASES, read_marks, run_marked

INPUTS = ("manifest", "windows", "spectrograms", "faces")
PROCESSES = multiprocessing.get_context("forkserver")  # forks a server that has imported torch: runs start at once
PROCESSES.set_forkserver_preload(["tests.soak.marked_run"])


@dataclass
class Tally:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    """By the phase that they fell into."""
    caches: int = 0
    runs: int = 0
    twice: int = 0
    """Rows that two runs at once computed both: neither was finished when they began."""

    def __str__(self) -> str:
        where = ", ".join(f"{self.kills[phase]} in {phase}" for phase in ("start", *PHASES))
        return (
            f"{self.kills.total()} kills ({where}), {self.runs} runs, {self.caches} caches: all equal the undisturbed "
            f"one to the bit, verify clean, nothing left behind, 0 finished rows computed again "
            f"({self.twice} rows by two runs at once)"
        )


def main() -> None:
    """Kills, reruns and compares, one run at a time, then two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for runs, workers in ((1, 4), (2, 2)):
        with tempfile.TemporaryDirectory(prefix="bmnas-crash-") as folder:
            crash = Crash(Path(folder), runs=runs, workers=workers, clips=48, seed=given.seed)
            print(f"{runs} at once: {crash.soak(given.kills)}", flush=True)


class Crash:
    """Made-up clips, an undisturbed cache of them, and caches whose runs are killed."""

    def __init__(self, folder: Path, *, runs: int, workers: int, clips: int, seed: int) -> None:
        self.folder, self.runs, self.random, self.tally = folder, runs, random.Random(seed), Tally()  # noqa: S311
        windows = {"window_s": 0.5, "max_per_clip": 4}
        backbone = {"name": "tests.pipeline.counting:wide", "weights": "seed:0"}
        features = {"visual": [backbone], "audio": [backbone], "length": 8}
        compute = {"workers": workers, "device": "cpu"}
        self.params = made_up_params(folder / "data", windows=windows, features=features, compute=compute)
        (folder / "params.yaml").write_text(yaml.safe_dump(self.params.model_dump(mode="json")))
        write_clips(folder / "data", clip_contents([f"clip{i:02d}" for i in range(clips)]))
        self.undisturbed = Workspace(folder / "undisturbed")
        run_before_features(self.undisturbed, self.params)
        os.environ[LOG] = str(folder / "ignored")
        self.keys = keys_of_pixels(self.undisturbed, self.params)
        run = Run(self, self.undisturbed, 0)
        run.wait()
        self.moments = moments(run.marks)

    def soak(self, kills: int) -> Tally:
        """Kills so often, and checks every cache on the way."""
        while self.tally.kills.total() < kills:
            workspace = Workspace(self.folder / f"killed{self.tally.caches}")
            workspace.root.mkdir()
            for part in INPUTS:
                (workspace.root / part).symlink_to(self.undisturbed.root / part)
            while not self._attempt(workspace):
                pass
            self._check(workspace)
            self.tally.caches += 1
            print(f"  cache {self.tally.caches}: {self.tally.kills.total()} kills so far", flush=True)
        return self.tally

    def _attempt(self, workspace: Workspace) -> bool:
        """Starts the runs and kills one or all of them; whether they finished before."""
        finished = self._finished(workspace)
        runs = [Run(self, workspace, self.tally.runs + i) for i in range(self.runs)]
        self.tally.runs += len(runs)
        victims = self.random.sample(runs, self.random.randint(1, len(runs)))
        killed = self._kill(victims)
        for run in runs:
            run.wait(may_fail=run in victims and killed)
        computed = [self.keys[pixels] for run in runs for pixels in run.computed()]
        again = finished.intersection(computed)
        assert not again, f"{len(again)} finished rows were computed again"
        self.tally.twice += len(computed) - len(set(computed))
        return not killed

    def _kill(self, victims: list[Run]) -> bool:
        """Waits for a moment of the first run's writer, then kills; False when the run ended before."""
        phase = self.random.choice(PHASES)
        # Early ones rather than late: the less is left to do, the fewer come.
        drawn = self.random.choices([(n, s) for p, n, s in self.moments if p == phase], k=2)
        occurrence, seconds = min(drawn)
        if not victims[0].wait_for(phase, occurrence):
            return False
        time.sleep(self.random.random() * seconds)
        if not victims[0].process.is_alive():
            return False
        for run in victims:
            run.kill()
        fell = [mark for _, mark in read_marks(victims[0].marks)]
        self.tally.kills[fell[-1] if fell and fell[-1] != "finished" else "index" if fell else "start"] += 1
        return True

    def _finished(self, workspace: Workspace) -> set[str]:
        """The keys of the rows that are staged or in the cache."""
        if not (workspace.features / "zarr.json").exists():
            return set()
        writer = FeatureCacheWriter(workspace.features)
        columns = describe(self.params, window_sources(workspace, self.params))
        return {k for c in columns for k in set(c.keys).difference(writer.missing(c.variant, c.keys))}

    def _check(self, workspace: Workspace) -> None:
        """The cache is the undisturbed one, before and after `gc`, and nothing else is left."""
        for collect in (False, True):
            if collect:
                grow_old(workspace)
                collect_garbage(workspace.features, older_than_seconds=0)
            ours, theirs = FeatureCache.open(workspace.features), FeatureCache.open(self.undisturbed.features)
            assert ours.index.equals(theirs.index)
            left, right = ours.load(), theirs.load()
            assert list(left) == list(right)
            assert all(torch.equal(left[layer], right[layer]) for layer in left)
            found = verify(workspace.features)
            assert not found.problems, found.problems
        lost = leftovers(workspace)
        assert not lost, lost


class Run:
    """A process group that runs the stage, its marks and its counts."""

    def __init__(self, crash: Crash, workspace: Workspace, number: int) -> None:
        self.marks = workspace.root.with_name(f"{workspace.root.name}-{number}.marks")
        self.log = self.marks.with_suffix(".log")
        self.errors = self.marks.with_suffix(".err")
        files = (workspace.root, crash.folder / "params.yaml", self.marks, self.log, self.errors)
        self.process = PROCESSES.Process(target=run_marked, args=files)
        self.process.start()

    def kill(self) -> None:
        """SIGKILLs the whole group; nothing when the run has just ended."""
        assert self.process.pid is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not become a group yet
            self.process.kill()

    def wait_for(self, phase: str, occurrence: int) -> bool:
        """Until the writer is in the phase for the given time (1: the first); False when the run ends before."""
        while [mark for _, mark in read_marks(self.marks)].count(phase) < occurrence:
            if not self.process.is_alive():
                return False
            time.sleep(0.002)
        return True

    def wait(self, *, may_fail: bool = False) -> None:
        """Until it has ended; well, unless it `may_fail`."""
        self.process.join()
        assert self.process.exitcode == 0 or may_fail, self.errors.read_text()

    def computed(self) -> list[str]:
        """The digests of the pixels of every row computed."""
        return [f"{modality} {pixels}" for modality, _, pixels in logged(self.log)]


def keys_of_pixels(workspace: Workspace, params: Params) -> dict[str, str]:
    """{modality and digest of a window's pixels: its row's key}."""
    sources = window_sources(workspace, params)
    found = {}
    for column in describe(params, sources):
        backbone = load_backbone(column.variant.modality, column.params, "cpu")
        for source, key in zip(sources, column.keys, strict=True):
            window = next(window_inputs(source, backbone.input, [0], params.spectrograms))
            found[f"{backbone.modality} {digest_of(window)}"] = key
    return found


def moments(marks: Path) -> list[tuple[str, int, float]]:
    """(phase, its how-manieth time, how long it lasted) of an undisturbed run."""
    seen: Counter[str] = Counter()
    found = []
    listed = read_marks(marks)
    for (start, phase), (end, _) in itertools.pairwise(listed):
        seen[phase] += 1
        found.append((phase, seen[phase], end - start))
    return found


def grow_old(workspace: Workspace) -> None:
    """Lets the files of killed workers look like last week's: `gc` leaves young ones alone, a run may be at work."""
    for file in workspace.features.with_name(f"{workspace.features.name}.staging").rglob("*"):
        os.utime(file, (0, 0))


def leftovers(workspace: Workspace) -> list[Path]:
    """Files that belong to no cache: temporary ones, staged pieces, shards of a layer without their like in others."""
    found = [
        path
        for path in workspace.root.rglob("*")
        if not path.is_symlink() and ("tmp" in path.name or path.suffix in (".npz", ".partial", ".run"))
    ]
    for variant in FeatureCache.open(workspace.features).variants:
        arrays = [path for path in (workspace.features / variant.path).iterdir() if path.is_dir()]
        shards = {array: {int(file.name.split(".")[1]) for file in array.glob("c.*")} for array in arrays}
        common = set.intersection(*shards.values())
        found += [array for array, numbers in shards.items() if numbers != common]
    return found


if __name__ == "__main__":
    main()
