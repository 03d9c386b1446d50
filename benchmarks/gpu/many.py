"""Many runs: the 80-run ablation as a command, and how many architectures an oracle trains a minute.

Scaled down by --share: so many of 20,000 windows, and of 512 architectures. Figures name what they were measured with;
nothing is extrapolated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import yaml

import nas
from benchmarks.gpu.measuring import Bench
from nas.space import Space
from tests.pipeline.run_fixture import make_index, make_workspace

WINDOWS, WINDOWS_PER_SUBJECT = 20_000, 8
EPOCHS, ORACLE_EPOCHS, TRAINED = 4, 2, 512
VALUES, SEEDS = (1, 5, 10, 15), 5
LAYERS = tuple(f"{modality}/l{i}" for modality in ("visual", "audio") for i in range(4))
LENGTH, WIDTH, BATCH = 8, 256, 128
BMNAS = (sys.executable, "-m", "pipeline.cli")


def main() -> None:
    """Measures one after the other."""
    bench = Bench.of_arguments(__doc__)
    windows = bench.count(WINDOWS, 160)
    oracle(bench, windows)
    ablation(bench, windows)


def ablation(bench: Bench, windows: int) -> None:
    """Seconds of `bmnas sweep` over temperatures, samples and seeds."""
    values = VALUES[: bench.count(len(VALUES), 1)] if bench.device == "cpu" else VALUES
    seeds = SEEDS if bench.device != "cpu" else 1
    with tempfile.TemporaryDirectory(prefix="bmnas-gpu-") as folder:
        workspace = make_workspace(Path(folder) / "work", make_index(subjects=windows // WINDOWS_PER_SUBJECT), pseudo=0)
        params = {
            "search": {"epochs": EPOCHS, "warmup_epochs": 1, "batch_size": BATCH},
            "features": {"pseudo": 0},
            "seeds": [0],
            "compute": {"device": bench.device, "workers": 1 if bench.device == "cpu" else 0},
        }
        file = Path(folder) / "params.yaml"
        file.write_text(yaml.safe_dump(params))
        listed = ",".join(map(str, values))
        command = [*BMNAS, "sweep", "--grid", f"temperature={listed}", "--grid", f"samples={listed}"]
        options = ["--seeds", str(seeds), "--params", str(file), "--work", str(workspace.root)]
        taken = bench.seconds(lambda: told(command + options))
    runs = len(values) ** 2 * seeds
    what = f"{runs}-run ablation, {windows:,} windows, {EPOCHS} epochs of batches of {BATCH}, whole command"
    bench.add(what, taken, "s", "under 300 with 20,000 windows")
    bench.add("the same, runs x epochs a second", runs * EPOCHS / taken, "1/s")


def told(command: list[str]) -> None:
    """Runs a command; raises RuntimeError with what it said where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own command
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-2000:])


def oracle(bench: Bench, windows: int) -> None:
    """Architectures of one cell and two steps that are trained a minute."""
    count = bench.count(TRAINED, 4)
    source = torch.Generator().manual_seed(0)
    features = {name: torch.randn(windows, LENGTH, WIDTH, generator=source).half() for name in LAYERS}
    labels, split = torch.arange(windows) % 2, ["train", "train", "val", "test"] * (windows // 4)
    rows = slice(len(split))
    features, labels = {name: x[rows] for name, x in features.items()}, labels[rows]
    labels = labels[torch.randperm(len(labels), generator=source)]
    genotypes = Space(LAYERS, steps=2).sample(count, 0)
    config = nas.RetrainConfig(epochs=ORACLE_EPOCHS, batch_size=BATCH, device=bench.device)
    taken = bench.seconds(lambda: nas.retrain(features, labels, split, genotypes, config, [0] * count))
    what = (
        f"oracle, {count} architectures at once, {len(split):,} windows, {ORACLE_EPOCHS} epochs of batches of {BATCH}"
    )
    bench.add(what, 60 * count / taken, "architectures a minute", "3,640 in 30 minutes: 121, at full epochs")


if __name__ == "__main__":
    main()
