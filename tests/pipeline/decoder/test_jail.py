"""The wall: what a codec that a file has taken over can do. `attacker` stands in for it, in the decoder's own place."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import media
from pipeline.decoder.jail import why_unfiltered
from pipeline.decoder.messages import Block
from pipeline.media import frames, process
from tests.pipeline.clips import make_clip
from tests.pipeline.decoder.attacker import ATTACKS

needs_wall = pytest.mark.skipif(bool(why_unfiltered()), reason=why_unfiltered())
HIDDEN = "a secret that a user has in the environment"


class Target:
    """What is attacked: a file that is no media, a folder, a port."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.file = folder / "clip.mp4"
        self.file.write_bytes(b"any file")
        self.secret = folder / "secret"
        self.secret.write_text("top secret")
        self.secret.chmod(0o600)

    def ask(self, function: str, **request: Any) -> dict[str, Any]:
        with process.reading(function, self.file, [], request) as reading:
            return reading.result()[0]

    def attack(self, name: str) -> str:
        """What came of it."""
        (self.folder / "victim").touch()
        given = {"folder": str(self.folder), "secret": str(self.secret), "port": self.port, "client": os.getpid()}
        try:
            return str(self.ask("attack", attack=name, **given)["came"])
        except media.MediaError as error:
            return f"killed: {error}"


@contextlib.contextmanager
def another_server(module: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While it lasts, decoders are `module`'s."""
    idle: list[process._Reader] = []
    monkeypatch.setattr(process, "SERVER", module)
    monkeypatch.setattr(process, "_idle", idle)
    yield
    for reader in idle:
        reader.end()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("attack")
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "socket"))
        unix.listen()
        yield Target(folder, listening.getsockname()[1])


@pytest.fixture
def target(place: Target, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    monkeypatch.setenv("SECRET", HIDDEN)
    with another_server("tests.pipeline.decoder.attacker", monkeypatch):
        yield place


@pytest.fixture
def unwalled(place: Target, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    with another_server("tests.pipeline.decoder.unwalled", monkeypatch):
        yield place


@needs_wall
def test_every_attack_is_refused(target: Target) -> None:
    came = {name: target.attack(name) for name in ATTACKS}
    allowed = ("refused: [Errno 1]", "killed: its decoder was stopped at what none may do")
    special = {"write_beyond_the_limit": "killed: decoding gives more than"}
    bad = {name: what for name, what in came.items() if not what.startswith(special.get(name, allowed))}
    assert not bad, bad
    assert not (target.folder / "written").exists()
    assert (target.folder / "victim").exists()


WITHOUT_IT = {
    "send_a_file_away": "killed: the decoder's answer makes no sense",  # the server took it
    "run_a_program": "killed: ",  # that was its end
    "seal_the_answer": "killed: the decoder holds on to what it wrote",  # so that we cannot seal it any more
    "write_beyond_the_limit": "killed: decoding gives more than",  # a limit
    "raise_a_limit": "refused: [Errno 1]",  # it is a hard one
    "change_the_question": "refused: [Errno 1]",  # it is sealed
    "write_to_the_terminal": "refused: [Errno 1]",  # what it says goes nowhere
    **dict.fromkeys(("fork", "start_a_thread"), "refused: [Errno 11]"),  # a limit, but for root
    **dict.fromkeys(("change_root", "become_a_user"), "refused: [Errno 1]"),  # only root may
    "read_memory_of_the_server": "refused: [Errno 1",  # where Yama is
    **dict.fromkeys(("call_by_the_old_number", "use_a_ring"), "refused: [Errno "),  # not every kernel has them
}
"""What else than success may come of an attack without the wall, and why."""


def test_without_the_wall_they_succeed(unwalled: Target) -> None:
    """So that the test above is worth something."""
    # One would change this machine, as root, the other would stop the server.
    safe = [name for name in ATTACKS if name not in ("mount", "trace_the_server")]
    came = {name: unwalled.attack(name) for name in safe}
    bad = {name: what for name, what in came.items() if not what.startswith(("done", WITHOUT_IT.get(name, "done")))}
    assert not bad, bad
    (unwalled.folder / "written").unlink()


def test_what_was_answered_stays(unwalled: Target) -> None:
    with process.reading("which", unwalled.file, [], {}) as reading:
        _, blocks = reading.result()
        assert "[Errno 1]" in unwalled.attack("shrink_an_earlier_answer")
        assert bytes(blocks["block"]) == bytes(100)


def test_secrets_do_not_come_along(target: Target) -> None:
    found = target.ask("environment")
    assert HIDDEN not in str(found)
    assert len(found["open"]) == 6  # nothing, nowhere, nowhere; its socket, the question, the answer


def test_a_copy_reads_one_file_only(target: Target) -> None:
    other = target.folder / "other.mp4"
    other.write_bytes(b"another")
    first, again = target.ask("which"), target.ask("which")
    assert first == again
    with process.reading("which", other, [], {}) as reading:
        assert reading.result()[0] != first
    assert target.ask("which") != first


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 99999) + b"[" * 99999,
        struct.pack("<Q", 24) + b'{"error": 1, "blocks":{}}',
        struct.pack("<Q", 30) + b'{"blocks": {"packets": "much"}}',
    ],
)
def test_an_answer_that_makes_no_sense_is_the_files_fault(target: Target, answer: bytes) -> None:
    with (
        process.reading("nonsense", target.file, [], {}, bytes=answer) as reading,
        pytest.raises(media.MediaError, match="makes no sense"),
    ):
        reading.result()


_MOST, _LEAST = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [
        *(([0, 13], 0), ([-1, 2], 0), ([_LEAST], 0), ([_MOST], 0), ([2**62, -(2**62) - 1, 3], 0), ([3, 2], 0)),
        *(([1, 1], 0), (list(range(13)) * 2, 0), ([0, 1], 1)),
    ],
)
def test_pictures_that_are_none_are_the_files_fault(
    target: Target, monkeypatch: pytest.MonkeyPatch, numbers: list[int], missing: int
) -> None:
    """The clip has 13 pictures."""
    clip = make_clip(target.folder / "forged.mp4", seconds=0.5)

    def forged(_: str, path: Path, outputs: Sequence[int], request: dict[str, Any], **blocks: Block) -> Any:
        return process.reading("forge", path, outputs, {**request, "numbers": numbers, "missing": missing}, **blocks)

    monkeypatch.setattr(frames, "reading", forged)
    with pytest.raises(media.MediaError, match="makes no sense"):
        media.read_frames(clip, [0.0])
    with pytest.raises(media.MediaError, match="makes no sense"):
        _read_all(clip)


def _read_all(clip: Path) -> None:
    with media.open_video(clip, full_at_s=[0.1], small_height_px=24) as video:
        list(video.small(batch=2))
        video.full()


def test_what_it_says_cannot_steer_a_terminal(target: Target) -> None:
    body = b'{"error": "failed", "reason": "\\u001b[2J", "log": "", "blocks": {}}'
    with (
        process.reading("nonsense", target.file, [], {}, bytes=struct.pack("<Q", len(body)) + body) as reading,
        pytest.raises(media.MediaError) as raised,
    ):
        reading.result()
    assert str(raised.value).isprintable()


def test_a_fault_of_ours_is_told_with_its_place(target: Target) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)attacker\.py.*a fault of ours"):
        target.ask("fail")


def test_want_of_room_is_no_verdict_on_the_file(target: Target) -> None:
    with pytest.raises(media.PassingError, match="no room"):
        target.ask("find_no_room")


@needs_wall
def test_what_is_in_force_is_measured_in_a_copy(target: Target) -> None:
    found = media.isolation()
    assert (found.filtered, found.no_new_privs, found.why_not_filtered) == (True, True, "")
    server = max(psutil.Process().children(), key=psutil.Process.create_time)  # numbers begin again some time
    (copy,) = server.children()
    networks = [Path(f"/proc/{pid}/ns/net").readlink() for pid in (os.getpid(), copy.pid)]
    assert found.separated == (networks[0] != networks[1]) == (not found.why_not_separated)
    assert found.limits["processes"] == 0
    assert 0 < found.limits["cpu_s"] <= process.WALL_SECONDS + 2
    assert 0 < found.limits["memory_bytes"] <= process.MAX_MEMORY_BYTES
    assert 0 < found.limits["output_bytes"] <= process.MAX_OUTPUT_BYTES
    assert {"h264", "aac"} < set(found.codecs)
    assert "snow" not in found.codecs
    assert found.libraries["libavcodec"].count(".") == 2


def test_it_says_what_is_missing(unwalled: Target) -> None:
    found = media.isolation()
    assert (found.filtered, found.why_not_filtered) == (False, "left out by a test")
    assert found.no_new_privs == (not why_unfiltered())
