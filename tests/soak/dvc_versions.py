"""`make soak-dvc_versions`: what a second version of the cache adds to DVC's cache, and that the first comes back.

In a clone of this repository: 24 drawn clips, `dvc repro features`, commit; 8 clips more, `dvc repro features`, commit;
then the first commit is checked out again. Files are hard links into DVC's cache: whoever wrote into one would change
an object. Prints bytes and objects; fails when an object changed, when a shard was written again, or when the first
cache is not the first cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from cache_schemas.features import FeatureCache

ROOT = Path(__file__).parents[2]
CLIPS_PER_IDENTITY = 4
IDENTITIES = (6, 8)
"""Of the two versions."""


def main() -> None:
    """Two versions and the way back."""
    with tempfile.TemporaryDirectory(prefix="bmnas-dvc-") as folder:
        repository = Repository(Path(folder) / "repository")
        first = repository.version(IDENTITIES[0])
        features, index = repository.cache()
        objects = repository.objects()
        print(f"version 1: {_described(first)}", flush=True)
        second = repository.version(IDENTITIES[1])
        new = {path: found for path, found in second.items() if found not in first.values()}
        print(f"version 2: {_described(second)}; new in DVC's cache: {_described(new)}", flush=True)
        for kind in ("shards of layers", "keys", "index", "zarr.json"):
            print(f"  {kind}: {_described({path: found for path, found in new.items() if _kind(path) == kind})}")
        again = {path for path in first if _kind(path) != "zarr.json" and not path.startswith("index/")}
        assert all(second.get(path) == first[path] for path in again), "a shard was written again"
        repository.run("git", "checkout", "--quiet", "HEAD~1")
        repository.run("dvc", "checkout", "features")
        restored, restored_index = repository.cache()
        assert restored_index.equals(index)
        assert restored.keys() == features.keys()
        assert all(torch.equal(restored[layer], features[layer]) for layer in features)
        later = repository.objects()
        assert objects.items() <= later.items(), "an object in DVC's cache was changed"
        print(
            f"back on version 1: the first values and index; none of DVC's {len(objects)} objects changed, "
            f"{len(later) - len(objects)} more"
        )


class Repository:
    """A clone whose files are hard links into DVC's cache."""

    def __init__(self, path: Path) -> None:
        subprocess.run(["git", "clone", "--quiet", ROOT, path], check=True)
        self.path = path
        for setting in (("cache.type", "hardlink"), ("core.analytics", "false"), ("core.check_update", "false")):
            self.run("dvc", "config", "--local", *setting)
        for setting in (("user.name", "soak"), ("user.email", "soak@localhost")):
            self.run("git", "config", *setting)

    def run(self, *command: str) -> None:
        """Runs a command there; what it says is shown when it fails."""
        paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environment = os.environ | paths
        done = subprocess.run(command, check=False, cwd=self.path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"

    def version(self, identities: int) -> dict[str, tuple[str, int]]:
        """{file in the feature cache: (md5, bytes)} of a commit with so many people."""
        params = yaml.safe_load((self.path / "params.yaml").read_text())
        params["synth"] |= {"identities": identities, "clips_per_identity": CLIPS_PER_IDENTITY}
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        self.run("dvc", "repro", "features")
        self.run("git", "add", "params.yaml", "dvc.lock")
        self.run("git", "commit", "--quiet", "--message", f"{identities} people")
        lock = yaml.safe_load((self.path / "dvc.lock").read_text())
        outs = {out["path"]: out["md5"] for out in lock["stages"]["features"]["outs"]}
        listed = json.loads(self._object(outs["work/features.zarr"]).read_text())
        return {entry["relpath"]: (entry["md5"], self._object(entry["md5"]).stat().st_size) for entry in listed}

    def _object(self, md5: str) -> Path:
        return self.path / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]

    def objects(self) -> dict[str, str]:
        """{object in DVC's cache: what its content is}."""
        files = [path for path in (self.path / ".dvc" / "cache" / "files").rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def cache(self) -> tuple[dict[str, torch.Tensor], object]:
        """Values and index of the feature cache that is checked out."""
        opened = FeatureCache.open(self.path / "work" / "features.zarr")
        return opened.load(), opened.index


def _kind(path: str) -> str:
    if path.endswith("zarr.json"):
        return "zarr.json"
    if path.startswith("index/"):
        return "index"
    return "keys" if path.split("/")[-2] == "key" else "shards of layers"


def _described(files: dict[str, tuple[str, int]]) -> str:
    different = dict(files.values())
    return f"{sum(different.values()):,} bytes in {len(different)} objects"


if __name__ == "__main__":
    main()
