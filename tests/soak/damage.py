"""`make soak-damage`: bytes flipped at random in every file of a feature cache, one at a time.

Each must be found by `verify`, and whatever reads the cache must either refuse with an error of its own kind or give
the true numbers. Prints a table by kind of file; exit code 1 when a flip outside of zarr.json is missed, when a reader
gives a wrong number, or when an error does not say what is damaged. In a zarr.json white space may change.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.features.upkeep import verify
from tests.cache_schemas.features.small_cache import AUDIO, VISUAL, build, names, variant

WINDOWS = names(45)
VARIANTS = (VISUAL, AUDIO, variant("other"))
REMOTE = "memory://soak-damage"
KINDS = ("shard", "keys", "index column", "zarr.json")

Rows = dict[str, torch.Tensor]


@dataclass
class Outcome:
    """What became of the flips in one kind of file."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def kind_of(file: Path) -> str:
    """One of KINDS."""
    if file.name == "zarr.json":
        return "zarr.json"
    if "index" in file.parts:
        return "index column"
    return "keys" if file.parent.name == "key" else "shard"


def loaded(cache: FeatureCache) -> Rows:
    """All of it, shard by shard."""
    return cache.load()


def chosen(cache: FeatureCache) -> Rows:
    """Window by window, as far as the windows of one shard do not come together."""
    parts = [cache.read([i]) for i in range(0, len(cache))]
    return {layer: torch.cat([part[layer][0] for part in parts]) for layer in cache.layers}


READERS: tuple[Callable[[FeatureCache], Rows], ...] = (loaded, chosen)


class Damaged:
    """A cache on disk and the same on a server, one byte of which is flipped and put right again."""

    def __init__(self, path: Path) -> None:
        build(path, WINDOWS[30:], VARIANTS)
        build(path, WINDOWS, VARIANTS)
        self.path, self._server = path, fsspec.filesystem("memory")
        self._server.put(str(path), REMOTE, recursive=True)
        self.files = sorted(file for file in path.rglob("*") if file.is_file())
        cache = FeatureCache.open(path)
        self._index, self._truth = cache.index, loaded(cache)

    def write(self, file: Path, content: bytes) -> None:
        """Replaces a file in both places."""
        file.unlink()
        file.write_bytes(content)
        self._server.pipe_file(f"{REMOTE}/{file.relative_to(self.path)}", content)

    def found(self) -> bool:
        """Whether `verify` sees it."""
        try:
            return bool(verify(self.path).problems)
        except FeatureCacheError:
            return True

    def readers_say(self, place: str | None) -> tuple[int, list[str]]:
        """How many readers refused, and what is wrong with the rest; place: what an error of theirs must name."""
        refused, failures = 0, []
        for url in (str(self.path), REMOTE):
            for reader in READERS:
                try:
                    cache = FeatureCache.open(url)
                    index, rows = cache.index, reader(cache)
                except FeatureCacheError as error:
                    refused += 1
                    if place is not None and place not in str(error):
                        failures.append(f"{reader.__name__} of {url} does not name {place}: {error}")
                except Exception as error:
                    failures.append(f"{reader.__name__} of {url} raised {type(error).__name__}: {error}")
                else:
                    same = index.equals(self._index) and list(rows) == list(self._truth)
                    if not same or not all(torch.equal(rows[layer], self._truth[layer]) for layer in rows):
                        failures.append(f"{reader.__name__} of {url} gave a wrong number")
        return refused, failures


def flip(cache: Damaged, rng: np.random.Generator, outcomes: dict[str, Outcome]) -> None:
    """One byte of one file; every kind of file has its turn."""
    kind = KINDS[rng.integers(len(KINDS))]
    files = [file for file in cache.files if kind_of(file) == kind]
    file = files[rng.integers(len(files))]
    content = file.read_bytes()
    at, change = int(rng.integers(len(content))), int(rng.integers(1, 256))
    what = f"{file.relative_to(cache.path)}, byte {at}, {content[at]} -> {content[at] ^ change}"
    in_rows = kind == "shard"
    cache.write(file, content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
    try:
        found = cache.found()
        refused, failures = cache.readers_say(str(file.relative_to(cache.path)) if in_rows else None)
    finally:
        cache.write(file, content)
    if not found and kind != "zarr.json":
        failures.append("verify does not find it")
    if in_rows and refused < 2 * len(READERS):
        failures.append(f"{refused} readers of {2 * len(READERS)} refuse")
    counts = outcomes[kind].counts
    counts.update({"flips": 1, "found": found, "harmless": not found and not refused, "refused": refused > 0})
    outcomes[kind].failures += [f"{what}: {failure}" for failure in failures]


def run(flips: int, seed: int) -> dict[str, Outcome]:
    """{kind of file: what became of its flips}."""
    outcomes = {kind: Outcome() for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        cache, rng = Damaged(Path(folder) / "c.zarr"), np.random.default_rng(seed)
        for _ in track(range(flips), "flips", console=Console(stderr=True)):
            flip(cache, rng, outcomes)
        if cache.found():
            outcomes["shard"].failures.append("the cache is not whole any more at the end")
        fsspec.filesystem("memory").rm(REMOTE, recursive=True)
    return outcomes


def main() -> None:
    """Prints the table; exit code 1 when something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=200, help="how many bytes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which bytes (default: %(default)s)")
    chosen = parser.parse_args()
    outcomes = run(chosen.flips, chosen.seed)
    columns = ("flips", "found", "harmless", "refused")
    table = Table("file", "flips", "found by verify", "harmless", "refused by a reader")
    for kind, outcome in outcomes.items():
        table.add_row(kind, *(str(outcome.counts[column]) for column in columns))
    Console().print(table)
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    for failure in failures:
        Console().print(failure, markup=False, soft_wrap=True)
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
