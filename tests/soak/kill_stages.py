"""`make kill`: the faces and features stages of a whole run, killed half way (SIGKILL), three times each.

Needs a finished `work/` (make demo). Prints a line per kill and fails on the first difference.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from cache_schemas.features import FeatureCache
from cache_schemas.media import FACES
from cache_schemas.shards import read_rows, scan_shards
from pipeline.faces.stage import face_key
from pipeline.features.forward import PIECE_ROWS
from pipeline.params import load_params
from pipeline.workspace import Workspace
from tests.pipeline.test_pipeline import assert_same_cache, kill_when

KILLS = 3
STAGES = {"faces": ("*.h5",), "features": ("*/*/*.npz",)}
INPUTS = {
    "faces": ("manifest", "windows", "spectrograms"),
    "features": ("manifest", "windows", "spectrograms", "faces"),
}


def main() -> None:
    """Kills, resumes and compares."""
    undisturbed = Workspace(Path("work"))
    total = FeatureCache.open(undisturbed.features).index["clip_id"].nunique()
    for stage in STAGES:
        for attempt in range(KILLS):
            with tempfile.TemporaryDirectory(dir=".", prefix=".kill-") as folder:
                _kill_and_compare(stage, attempt, Workspace(Path(folder)), undisturbed, total)


def _kill_and_compare(stage: str, attempt: int, workspace: Workspace, undisturbed: Workspace, total: int) -> None:
    for part in INPUTS[stage]:
        shutil.copytree(undisturbed.root / part, workspace.root / part)
    # Finished pieces of the features stage wait beside the cache until they are packed: a piece per backbone.
    folder = workspace.faces if stage == "faces" else workspace.root / "features.zarr.staging"
    finished = len(list(undisturbed.faces.glob("*.h5"))) if stage == "faces" else 2 * -(-total // PIECE_ROWS)
    half = max(1, finished // 2)
    command = ["bmnas", stage, "--work", str(workspace.root)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    kill_when(process, lambda: len(list(folder.glob(STAGES[stage][0]))) >= half)
    at_kill = len(list(folder.glob(STAGES[stage][0])))
    rerun = subprocess.run(command, check=True, capture_output=True, text=True)
    counts = re.search(r"(\d+) already done,\s+(\d+)\s+computed", rerun.stderr)
    assert counts is not None, rerun.stderr
    already, computed = int(counts[1]), int(counts[2])
    assert already > 0, "what was finished is computed again"
    assert already + computed == total
    if stage == "faces":
        _assert_same_crops(workspace, undisturbed)
    if stage == "features" or attempt == KILLS - 1:
        subprocess.run(["bmnas", "features", "--work", str(workspace.root)], check=True, capture_output=True)
        assert_same_cache(workspace, undisturbed)
    left = [path for path in workspace.root.rglob("*") if path.suffix in (".tmp", ".partial")]
    assert not left, left
    print(
        f"{stage}, kill {attempt + 1}: {at_kill} of {finished} shards were finished; the rerun kept {already} and "
        f"computed {computed} of {total}; the result is the undisturbed run's, to the bit",
        flush=True,
    )


def _assert_same_crops(one: Workspace, other: Workspace) -> None:
    key = face_key(load_params(Path("params.yaml")))
    left, right = scan_shards(one.faces, FACES, key), scan_shards(other.faces, FACES, key)
    assert left.keys() == right.keys()
    for name in left:
        a, b = (
            read_rows(entry.path, FACES, range(entry.first_row, entry.first_row + len(entry.starts_s)))
            for entry in (left[name], right[name])
        )
        assert all(np.array_equal(a[array], b[array]) for array in a)


if __name__ == "__main__":
    main()
