"""`make bench-protocol`: `bmnas protocol` over folds of people, against single commands over the same cache.

A single command searches and trains, or trains a probe, for one fold, one seed and one method, in a process of its
own: it starts, reads the cache and computes; it measures and draws nothing. `--sample` of them are timed of each
method, half before the protocol and half after it. What all of them would take is *extrapolated*, from each method's
mean: one after the other, and as many at a time as there are cores. A method that draws nothing comes out alike for
every seed, and is counted once a fold; the last figure counts it for every seed, as a plain loop would run it.

`--work` and `--params` name a finished cache, which is only read; without, one is made of the built-in data set.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import yaml
from rich.console import Console

from benchmarks.side_by_side import Figure, print_figures
from cache_schemas.manifest import read_manifest
from pipeline.compute.machine import cores
from pipeline.experiments.folds import DEFAULT_METHODS, Fold, Protocol, folds_of
from pipeline.experiments.methods import methods, searches
from pipeline.experiments.scored import Split, run_methods
from pipeline.params import Params, load_params
from pipeline.runs.cache import Source, clip_index, open_cache
from pipeline.statistics.systems import PROBE, RANDOM_WEIGHTS
from pipeline.workspace import Workspace

GOAL = 10.0
CONTROL = f"{RANDOM_WEIGHTS}, "
"""How the methods begin that read features of random weights, as a protocol's tables have them, too."""
LEFT_OUT = ("runs", "protocols")
"""Of a workspace: what would spare the runs that are to be timed."""


@dataclass(frozen=True)
class Bench:
    """What is measured: so many folds and seeds over the cache of a workspace, which is only read."""

    work: Path
    params: Params
    folds: int

    @property
    def protocol(self) -> Protocol:
        """As `bmnas protocol` is given it."""
        return Protocol(kind="people", folds=self.folds)

    def splits(self) -> list[Split]:
        """Of every window, in each fold."""
        index = clip_index(Workspace(self.work), open_cache(Workspace(self.work), self.params))
        there = set(index["clip_id"])
        clips = [clip for clip in read_manifest(Workspace(self.work).manifest) if clip.clip_id in there]
        place = index["clip_id"].map({clip.clip_id: i for i, clip in enumerate(clips)}).to_numpy()
        found = folds_of(self.protocol, clips, seed=self.params.seed)
        return [tuple(np.array(fold.split, object)[place]) for fold in found if isinstance(fold, Fold)]

    def commands(self) -> dict[str, int]:
        """{method: how many single commands it needs}; those of random weights, too, where the cache has them."""
        source = Source.of(Workspace(self.work), self.params)
        known = methods(source.windows(), self.params)
        own = next(name for name, config in searches(self.params.search).items() if config == self.params.search)
        names = [own if name == "search" else name for name in DEFAULT_METHODS]
        needed = {name: self.folds * (len(self.params.seeds) if known[name].random else 1) for name in names}
        control = (own, PROBE) if source.control() is not None else ()
        return needed | {CONTROL + name: needed[name] for name in control}

    def fresh(self, folder: Path) -> Path:
        """`folder`, with links to the workspace, but for what is finished."""
        folder.mkdir()
        for path in self.work.iterdir():
            if path.name not in LEFT_OUT:
                (folder / path.name).symlink_to(path.resolve())
        return folder


def main() -> None:
    """Measures, or is a single command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="the folder of a finished cache")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="its parameters (%(default)s)")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--sample", type=int, default=2, help="single commands to time of each method (%(default)s)")
    parser.add_argument("--single", nargs=3, metavar=("METHOD", "FOLD", "SEED"), help="be a single command")
    chosen = parser.parse_args()
    params = load_params(chosen.params)
    if chosen.single:
        method, fold, seed = chosen.single
        single(Bench(chosen.work, params, chosen.folds), method, int(fold), int(seed))
        return
    with tempfile.TemporaryDirectory(prefix="bmnas-bench-") as folder:
        if chosen.work is None:
            chosen.work, params = made(Path(folder), params, people=4 * chosen.folds)
        params = params.model_copy(update={"seeds": tuple(range(chosen.seeds))})
        print_figures(measure(Bench(chosen.work, params, chosen.folds), Path(folder), chosen.sample))


def made(folder: Path, params: Params, *, people: int) -> tuple[Path, Params]:
    """(the workspace, its parameters) of a cache of the built-in data set, with so many people."""
    # No single command waits for what it does not need.
    from pipeline.faces.stage import build_faces  # noqa: PLC0415
    from pipeline.features.stage import build_features  # noqa: PLC0415
    from pipeline.manifest.build import build_manifest  # noqa: PLC0415
    from pipeline.sound.stage import build_spectrograms  # noqa: PLC0415
    from pipeline.synth import generate  # noqa: PLC0415

    generate(folder / "synth", identities=people, clips_per_identity=4, seed=params.seed)
    data = params.data.model_copy(update={"root": str(folder / "synth"), "layout": "synth"})
    params, work = params.model_copy(update={"data": data}), Workspace(folder / "made")
    build_manifest(work, params)
    for stage in (build_spectrograms, build_faces, build_features):
        stage(work, params)
    return work.root, params


def measure(bench: Bench, folder: Path, sample: int) -> list[Figure]:
    """The figures; `folder` is a place for what is computed."""
    (folder / "params.yaml").write_text(yaml.safe_dump(bench.params.model_dump(mode="json")))
    (folder / "bench.yaml").write_text(yaml.safe_dump({"kind": "people", "folds": bench.folds}))
    commands, drawn = bench.commands(), np.random.default_rng(0)
    seeds = len(bench.params.seeds)
    asked = [
        (name, int(drawn.integers(bench.folds)), int(drawn.integers(seeds))) for _ in range(sample) for name in commands
    ]
    half = len(asked) // 2
    taken = [_timed_single(bench, folder, *each) for each in asked[:half]]
    ours = _timed(["-m", "pipeline.cli", "protocol", str(folder / "bench.yaml")], folder, bench.fresh(folder / "work"))
    taken += [_timed_single(bench, folder, *each) for each in asked[half:]]
    means = {
        name: np.mean([of for (whose, *_), of in zip(asked, taken, strict=True) if whose == name], axis=0)
        for name in commands
    }
    for name, count in commands.items():
        wall, processor = means[name]
        Console().print(
            f"{name}: {wall:.1f} s a command, {processor:.1f} s of processor, mean of {sample}; {count} of it"
        )
    whole, processor = sum(means[name] * count for name, count in commands.items())
    every = bench.folds * seeds * sum(wall for wall, _ in means.values())
    what = f"{bench.folds} folds, {seeds} seeds, {len(commands)} methods"
    return [
        Figure(figure, GOAL, mine, theirs)
        for figure, mine, theirs in (
            (f"{what}, against {sum(commands.values())} commands, extrapolated from {len(asked)}", ours[0], whole),
            (f"the same, {cores()} commands at a time, as if that slowed none", ours[0], whole / cores()),
            (f"against {bench.folds * seeds * len(commands)} commands, each method for each seed", ours[0], every),
            ("processor time of the first", ours[1], processor),
        )
    ]


def single(bench: Bench, method: str, fold: int, seed: int) -> None:
    """One run of a method, all in this process."""
    compute = bench.params.compute.model_copy(update={"workers": 1})
    params = bench.params.model_copy(update={"seeds": (seed,), "compute": compute})
    source = Source.of(Workspace(bench.work), params)
    if method.startswith(CONTROL):
        control = source.control()
        assert control is not None
        source = control
    run_methods("single", source, [bench.splits()[fold]], {method.removeprefix(CONTROL)})


def _timed_single(bench: Bench, folder: Path, method: str, fold: int, seed: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = bench.fresh(Path(name) / "work")
        options = ["--folds", str(bench.folds), "--single", method, str(fold), str(seed)]
        return _timed(["-m", "benchmarks.protocol", *options], folder, work)


def _timed(command: list[str], folder: Path, work: Path) -> tuple[float, float]:
    """(seconds, those of processor, its workers' too) of a command of Python's, its start included."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    options = ["--params", str(folder / "params.yaml"), "--work", str(work)]
    subprocess.run([sys.executable, *command, *options], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
