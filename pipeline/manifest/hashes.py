"""SHA-256 of files. A second run reads none of those that are as they were."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from cache_schemas.files import replacing
from cache_schemas.paths import path_text
from pipeline import media

_RECENT_NS = 2 * 10**9
"""A file written so shortly before it is read may be written again within a tick of its disk's clock."""

_DIGITS = 2 * hashlib.sha256().digest_size


class Hashes:
    """What is known of files' content, in a text file: a line holds a digest and the state that the file was in.

    To be used as a context. What is found is written down at once, lest a killed run lose it; in the end only the files
    that were asked for are left.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, str] = {}
        self._asked = set[str]()
        self._lock = threading.Lock()

    def __enter__(self) -> Hashes:
        self._store.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._store.open("a+", encoding="utf-8")
        self._file.seek(0)
        for line in self._file:
            digest, _, state = line.rstrip("\n").partition(" ")
            if len(digest) == _DIGITS:  # a killed run may not have come to its line's end, or to its state's
                self._known[state] = digest
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            with replacing(self._store) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(f"{digest} {state}\n" for state, digest in self._known.items() if state in self._asked)

    def of(self, path: Path) -> tuple[str, int]:
        """(64 hex digits, bytes) of the regular file at `path`; any thread may ask. Raises PassingError or OSError."""
        with media.open_regular(path) as file:
            before = os.fstat(file.fileno())
            state = _state(path, before)
            found = self._known.get(state)
            if found is None:
                now_ns = time.time_ns()
                media.refuse_stand_ins(file.fileno())
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if _state(path, os.fstat(file.fileno())) != state:
                    raise media.PassingError("it was written to while it was read: run `bmnas manifest` again")
                if before.st_mtime_ns < now_ns - _RECENT_NS:
                    self._write_down(state, found)
        with self._lock:
            self._asked.add(state)
        return found, before.st_size

    def _write_down(self, state: str, digest: str) -> None:
        with self._lock:
            self._known[state] = digest
            self._file.write(f"{digest} {state}\n")
            self._file.flush()


def _state(path: Path, found: os.stat_result) -> str:
    """All that tells a file that was changed: one that is written over, and given its old time, has another ctime."""
    numbers = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return f"{' '.join(map(str, numbers))} {path_text(str(path))}"
