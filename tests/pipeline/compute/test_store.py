"""The store between a command and its workers: what it keeps, and what it says when it cannot."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.compute.cluster import SchedulerError
from pipeline.compute.store import Store, StoreError
from pipeline.compute.workers import run_tasks
from pipeline.params import ComputeParams
from tests.s3 import s3_client


class Answers(BaseHTTPRequestHandler):
    """An S3 that answers as its server's `statuses` say, then that all is well."""

    protocol_version = "HTTP/1.1"  # for who asks before it sends

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        statuses = self.server.statuses  # type: ignore[attr-defined]
        status = statuses.pop(0) if statuses else 200
        code = {403: "AccessDenied", 404: "NoSuchBucket", 503: "SlowDown"}.get(status, "")
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode() if code else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815 - as http.server wants them

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def answering(*statuses: int) -> Iterator[list[int]]:
    """Whoever speaks S3 gets these answers, one a request; yields those that nobody has got yet."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.statuses = list(statuses)  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with s3_client(f"http://127.0.0.1:{server.server_port}"):
        yield server.statuses  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def opened(path: Path, content: bytes) -> io.FileIO:
    path.write_bytes(content)
    return io.FileIO(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}/store")


def test_a_file_is_put_once_whatever_its_name(store: Store, tmp_path: Path) -> None:
    with opened(tmp_path / "a", b"same") as one, opened(tmp_path / "b", b"same") as other:
        assert store.put(one) == store.put(other) == store.put(one)
    (kept,) = (tmp_path / "store").rglob("needed/*")
    written = kept.stat().st_mtime_ns
    with opened(tmp_path / "a", b"same") as again:
        content = Store(store.url).put(again)  # another command's
    assert kept.stat().st_mtime_ns == written
    store.fetch(content, tmp_path / "far" / "a")
    assert (tmp_path / "far" / "a").read_bytes() == b"same"


def test_a_damaged_file_goes_away_and_the_next_command_puts_it_anew(store: Store, tmp_path: Path) -> None:
    with opened(tmp_path / "a", b"good") as file:
        content = store.put(file)
    (kept,) = (tmp_path / "store" / "needed").iterdir()
    kept.write_bytes(b"evil")
    with pytest.raises(StoreError, match=r"holds .* damaged: run the command again"):
        store.fetch(content, tmp_path / "far")
    assert not (tmp_path / "far").exists()
    assert not kept.exists()
    with opened(tmp_path / "a", b"good") as file:
        Store(store.url).put(file)
    store.fetch(content, tmp_path / "far")


def test_only_what_tasks_make_is_taken(store: Store, tmp_path: Path) -> None:
    """Whole files by the names that shards and pieces have; they are gone afterwards, the rest stays."""
    there = tmp_path / "there"
    (tmp_path / "made").write_bytes(b"made")
    names = ["0123456789abcdef.h5", "0123456789abcdef.npz", "run.sh", ".bashrc", "0123456789abcdef.h5.sh"]
    for name in names:
        store.leave(there / name, tmp_path / "made")
    assert store.is_left(there / names[0])
    store.take_all(there)
    assert sorted(path.name for path in there.iterdir()) == sorted(names[:2])
    assert not store.is_left(there / names[0])
    store.take(there / names[0])  # another command has it
    Store(store.url).take_all(tmp_path / "nothing here")


def test_two_commands_may_take_one_file_at_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").write_bytes(b"made")
    file, get = tmp_path / "there" / "0123456789abcdef.npz", store._files.get_file
    store.leave(file, tmp_path / "made")
    with monkeypatch.context() as patch:
        patch.setattr(store._files, "get_file", lambda *names: [get(*names), store._files.rm_file(names[0])])
        store.take(file)
    assert file.read_bytes() == b"made"


class Large(io.FileIO):
    """More than there is room for."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_store_without_room_holds_nothing_in_part(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"large")
    with Large(tmp_path / "a") as file, pytest.raises(StoreError, match=r"No space left on device.*make room there"):
        store.put(file)
    assert not list((tmp_path / "store" / "needed").iterdir())


def test_overload_is_tried_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with answering(503, 200) as left:
        Store("s3://bucket/x").is_left(Path("/folder/file.h5"))
        assert not left
    with answering(*[503] * 9) as left, pytest.raises(StoreError, match="cannot be used"):
        Store("s3://bucket/x").check()
    assert len(left) == 5


@pytest.mark.parametrize(
    ("status", "way_out"),
    [(403, "must be allowed to list, read, write and delete there"), (404, r"make the bucket or correct --store")],
)
def test_what_stays_wrong_is_said_with_the_way_out(status: int, way_out: str) -> None:
    with (
        answering(*[status] * 100),
        pytest.raises(StoreError, match=rf"the store s3://bucket/x cannot be used: .*{way_out}.*run the command again"),
    ):
        Store("s3://bucket/x").check()


@pytest.mark.parametrize(
    ("url", "said"),
    [("bucket/x", "no URL as s3://BUCKET/FOLDER"), ("nope://x", "Protocol not known"), ("s3:///", "")],
)
def test_what_can_be_no_store_is_refused(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=rf"the store {url} cannot be (opened|used): .*{said}"):
        Store(url).check()


def test_a_store_without_a_cluster_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    told = CliRunner().invoke(app, ["features", "--params", str(tmp_path / "params.yaml"), "--store", "s3://bucket/x"])
    assert "give its --scheduler, too" in str(told.exception)


def test_what_cannot_do_with_a_store_says_so() -> None:
    """Searches read the cache where it lies."""
    compute = ComputeParams(scheduler="tcp://127.0.0.1:9", store="s3://bucket/x")
    with pytest.raises(
        SchedulerError, match=r"by the store s3://bucket/x workers can do spectrograms, faces and features"
    ):
        list(run_tasks(str, [1], compute))
