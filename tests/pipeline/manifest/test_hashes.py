"""What is known of files' content, and what a killed run leaves of it."""

import hashlib
import os
from pathlib import Path

from pipeline.manifest.hashes import Hashes


def test_what_two_killed_runs_left_on_one_line_is_no_digest(tmp_path: Path) -> None:
    """The first had no time to end its line, so that the second's begins in it."""
    file, store = tmp_path / "a.mp4", tmp_path / "hashes"
    file.write_bytes(b"some bytes")
    os.utime(file, (1e9, 1e9))
    digest = hashlib.sha256(b"some bytes").hexdigest()
    with Hashes(store) as hashes:
        assert hashes.of(file) == (digest, 10)
    store.write_text(f"{'0' * 20}{store.read_text()}")
    with Hashes(store) as hashes:
        assert hashes.of(file) == (digest, 10)
