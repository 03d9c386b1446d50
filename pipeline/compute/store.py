"""The store between a command and workers that share no folder with it: a bucket, or a folder, that all of them reach.

What tasks need is put there by its content, as `needed/SHA256`, and stays there: whoever needs it again finds it. What
they make is put there as `made/FOLDER/NAME` and goes away as soon as the command has it. Between commands all of it may
be deleted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from cache_schemas.files import digest, replacing

THREADS = 8
"""Files that a command sends or takes at once: each waits for the store longer than it computes."""
_KNOWN_FILES = 10_000
_TRIES = 2
"""Of s3fs; in each AWS's client tries five times, for 15 s where nobody answers: three minutes in all are enough."""
FULL = (errno.ENOSPC, errno.EDQUOT)
_NAME = re.compile(r"[0-9a-f]{16}\.(h5|npz)")
"""Of what tasks make. Nothing else is taken from the store."""


class StoreError(RuntimeError):
    """The store did not do what was asked of it; the message names it, what was wrong, and the way out."""


class Content(NamedTuple):
    """What a file holds."""

    sha256: str
    size: int


class Store:
    """The files at an fsspec URL. Time-outs and overload are tried again by the URL's own client (docs/operating.md).

    Several threads may use it at once.
    """

    def __init__(self, url: str) -> None:
        """Raises StoreError where nothing can be there; nobody is asked yet."""
        self.url = url
        options = {"auto_mkdir": True} if url.startswith("file://") else {}
        with self._explained("cannot be opened"):
            import fsspec

            if "://" not in url:
                raise ValueError("it is no URL as s3://BUCKET/FOLDER, or file:///FOLDER for one that all see")
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
            if hasattr(self._files, "retries"):
                self._files.retries = _TRIES
        self._root = root.rstrip("/")
        self._known: dict[tuple[int, ...], Content] = {}

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Says what did not work, and why: every file system raises errors of its own."""
        try:
            yield
        except StoreError:
            raise
        except ImportError as error:
            extra = 'pip install "bmnas[s3]", here and for the workers' if self.url.startswith("s3:") else "install it"
            raise StoreError(f"the store {self.url} {what}: {error}: {extra}") from None
        except Exception as error:
            ways: dict[type[Exception], str] = {
                PermissionError: "who runs this must be allowed to list, read, write and delete there",
                FileNotFoundError: "make the bucket or correct --store (compute.store), delete nothing there meanwhile",
                ValueError: "correct --store (compute.store)",
            }
            way = ways.get(
                type(error),
                "check the URL and the network; for S3 the endpoint and keys (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY), here and where the workers run",
            )
            if isinstance(error, OSError) and error.errno in FULL:
                way = "make room there; while no command runs, all of it may be deleted"
            told = str(error) or type(error).__name__
            raise StoreError(
                f"the store {self.url} {what}: {told}. What was finished is kept: {way}, and run the command again"
            ) from error

    def check(self) -> None:
        """Raises StoreError unless this process may write, read and delete there."""
        name, said = f"{self._root}/made/check/{uuid4().hex}", uuid4().bytes
        with self._explained("cannot be used"):
            self._files.pipe_file(name, said)
            if self._files.cat_file(name) != said:
                raise OSError("it gives back other bytes than were written")
            self._files.rm_file(name)

    def put(self, file: FileIO) -> Content:
        """What an open file holds; it is in the store now, if it was not before. Files on disk are read once."""
        found = os.fstat(file.fileno())
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        content = self._known.get(stamp)
        if content is None:
            content = Content(hashlib.file_digest(file, "sha256").hexdigest(), found.st_size)
            name = self._needed(content)
            with self._explained(f"does not take {name}"):
                if self._size(name) != content.size:
                    file.seek(0)
                    with self._whole(name) as place, self._files.open(place, "wb") as out:
                        shutil.copyfileobj(file, out, 1 << 22)
            if len(self._known) >= _KNOWN_FILES:  # what many tasks need comes again and again, media do not
                self._known.clear()
            self._known[stamp] = content
        return content

    @contextmanager
    def _whole(self, name: str) -> Iterator[str]:
        """Where to write what is there as `name` afterwards: objects are never seen in part, but files are."""
        if self.url.startswith("file://"):
            with replacing(Path(name), lasting=False, one_of_many=True) as place:
                yield str(place)
        else:
            yield name

    def _delete(self, name: str) -> None:
        """Nothing where another command, or worker, did so."""
        with self._explained(f"does not delete {name}"), suppress(FileNotFoundError):
            self._files.rm_file(name)

    def _needed(self, content: Content) -> str:
        return f"{self._root}/needed/{content.sha256}"

    def _made(self, folder: Path) -> str:
        return f"{self._root}/made/{digest(str(folder))}"

    def _size(self, name: str) -> int:
        """Bytes of what is there, -1 where nothing is."""
        try:
            return int(self._files.info(name)["size"])
        except FileNotFoundError:
            return -1

    def _get(self, name: str, file: Path) -> None:
        """Raises OSError where there is no room here."""
        try:
            with self._explained(f"does not give {name}"):
                self._files.get_file(name, str(file))
        except StoreError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                raise error.__cause__ from None
            raise

    def fetch(self, content: Content, file: Path) -> None:
        """Writes what was put to a file here; raises StoreError where it is not what its name says."""
        name = self._needed(content)
        with replacing(file, lasting=False) as temporary:
            self._get(name, temporary)
            with temporary.open("rb") as got:
                whole = hashlib.file_digest(got, "sha256").hexdigest() == content.sha256
            if not whole:
                self._delete(name)
                raise StoreError(
                    f"the store {self.url} holds {name} damaged: run the command again, which puts it anew"
                )

    def leave(self, file: Path, here: Path) -> None:
        """Puts what a task made there for the command, which knows it as `file`; it lies `here`."""
        with (
            self._explained(f"does not take {file.name}"),
            self._whole(f"{self._made(file.parent)}/{file.name}") as place,
        ):
            self._files.put_file(str(here), place)

    def is_left(self, file: Path) -> bool:
        """Whether what a task makes is there already."""
        with self._explained(f"does not say whether it has {file.name}"):
            return self._size(f"{self._made(file.parent)}/{file.name}") >= 0

    def take(self, file: Path) -> None:
        """Writes what a task made to its place, and deletes it from the store; nothing where another command did so."""
        name = f"{self._made(file.parent)}/{file.name}"
        try:
            with replacing(file) as temporary:
                self._get(name, temporary)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return
            raise
        self._delete(name)

    def take_all(self, folder: Path) -> None:
        """The same of all files of a folder that are there: left for a command that was killed."""
        with self._explained("cannot be listed"):
            try:
                listed = self._files.ls(self._made(folder), detail=False)
            except FileNotFoundError:
                return
        names = [path.rpartition("/")[2] for path in listed]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.take, [folder / name for name in names if _NAME.fullmatch(name)]))
