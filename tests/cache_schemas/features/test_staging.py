"""Finished rows on their way: whole or not, found out when damaged, refused when not finite."""

from pathlib import Path

import numpy as np
import pytest

from cache_schemas.features import FeatureCacheError, FeatureCacheWriter, stage_piece, staged_piece
from cache_schemas.features.staging import staging_folder
from tests.cache_schemas.features.small_cache import (
    GEOMETRY,
    LENGTH,
    VISUAL,
    build,
    check,
    key_of,
    names,
    stage,
    truth,
)

KEYS = [key_of(VISUAL, name) for name in names(4)]


def test_a_piece_is_there_whole_or_not(path: Path) -> None:
    writer = FeatureCacheWriter(path)
    writer.add_variant(VISUAL)
    stage(path, VISUAL, KEYS[:2])
    folder = staging_folder(path) / VISUAL.path
    (folder / ".half.npz.abc.tmp").write_bytes(b"half a piece")
    assert writer.missing(VISUAL, KEYS) == KEYS[2:]


def test_a_damaged_piece_is_taken_away_and_computed_again(path: Path) -> None:
    """Cut short anywhere, or a byte flipped: its rows are never stored as something else."""
    rng = np.random.default_rng(0)
    build(path, names(4), (VISUAL,), stop_after=0)
    stage(path, VISUAL, KEYS)
    file = staged_piece(path, VISUAL, KEYS)
    whole = file.read_bytes()
    damages = [whole[: int(n)] for n in rng.integers(0, len(whole), 20)]
    for at in rng.integers(0, len(whole), 60):
        damages.append(whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1 :])
    found = 0
    for content in damages:
        file.write_bytes(content)
        missing = FeatureCacheWriter(path).missing(VISUAL, KEYS)
        assert missing == (KEYS if not file.exists() else [])
        found += not file.exists()
        if file.exists():  # a byte that says nothing, like a date
            writer = FeatureCacheWriter(path, GEOMETRY)
            staged = writer._staged(VISUAL)  # what would be packed
            for key, (piece, i) in staged.items():
                assert all(np.array_equal(piece.rows(layer)[i], truth(VISUAL, layer, key)) for layer in VISUAL.layers)
    assert found > 70
    file.write_bytes(whole[:100])
    assert build(path, names(4), (VISUAL,)) == 4
    check(path, names(4), (VISUAL,))


def test_rows_that_are_not_finite_are_told_and_the_others_staged(path: Path) -> None:
    writer = FeatureCacheWriter(path)
    writer.add_variant(VISUAL)
    features = {layer: np.zeros((4, LENGTH, channels)) for layer, channels in VISUAL.layers.items()}
    features["visual/net.2"][1, 2, 3] = 1e6
    features["visual/net.1"][3, 0, 0] = np.nan
    refused = stage_piece(path, VISUAL, KEYS, features)
    assert list(refused) == [KEYS[3], KEYS[1]]
    assert refused[KEYS[1]].startswith("visual/net.2: a feature is not finite as float16 (largest 1e+06): use features")
    assert refused[KEYS[3]].startswith("visual/net.1")
    assert writer.missing(VISUAL, KEYS) == [KEYS[1], KEYS[3]]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(FeatureCacheError, match=r"\.npz cannot be written: .*No space left.*make room"):
        stage(tmp_path / "c.zarr", VISUAL, KEYS)
    assert not list(tmp_path.rglob("*.tmp"))
