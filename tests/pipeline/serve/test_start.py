"""Starting and ending: tokens, hosts, the spool, workers; and the command with a real detector."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from cache_schemas.evidence import write_evidence
from cache_schemas.files import file_sha256
from cache_schemas.run import RetrainRun, read_run, write_run
from pipeline.backbones import load_backbone
from pipeline.detector.opened import backbones_of, open_bundle
from pipeline.params import Params
from pipeline.runs.kept import kept_evidence, retrained_digest
from pipeline.runs.unlike import write_familiar
from pipeline.serve.app import make_app
from pipeline.serve.run import serve
from pipeline.serve.settings import ServeError, Settings, Tokens, check_host, read_tokens
from pipeline.serve.spool import NAME, open_spool
from pipeline.workspace import Workspace
from tests.pipeline.serve.conftest import ABOUT
from tests.pipeline.tiny import TinyClips

BUNDLE = Path(__file__).parents[1] / "detector" / "data" / "format-1.bmnas"
"""A network of two channels, that fits no backbone's features; whose weights are said to be others than here."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a run's folder, with the backbones that are here."""
    folder = tmp_path_factory.mktemp("detector") / "work"
    with open_bundle(BUNDLE) as unpacked:
        shutil.copytree(unpacked.root, folder)
    workspace = Workspace(folder)
    source, (evidence, _) = workspace.retrain / "retrain.json", kept_evidence(workspace)
    run = read_run(source, RetrainRun)
    params = Params.model_validate(run.params)
    here = [load_backbone(modality, of, "cpu").identity() for modality, _, of in backbones_of(params)]
    write_run(source, run.model_copy(update={"backbones": dict(zip(run.backbones, here, strict=True))}))
    unlike = workspace.evaluate / "unlike.safetensors"
    write_familiar(unlike, {})  # it has been told nothing of what its training clips were like
    calibrated = {name: of.model_copy(update={"points": of.points[:1]}) for name, of in evidence.systems.items()}
    changed = {"retrained": retrained_digest(workspace), "unlike": file_sha256(unlike), "systems": calibrated}
    write_evidence(workspace.evaluate, evidence.model_copy(update=changed))
    return folder


def test_tokens_come_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# who\n0123456789abcdef\n\n  fedcba9876543210  \n")
    tokens = read_tokens(file, "one-of-the-environment")
    assert [tokens.know(text) for text in ("0123456789abcdef", "fedcba9876543210", "one-of-the-environment")] == [
        True
    ] * 3
    assert [tokens.know(text) for text in ("", "0123456789abcdeg", "# who", "0123456789abcdef\n")] == [False] * 4
    assert not read_tokens(None, "")
    assert b"0123456789abcdef" not in repr(tokens).encode()


@pytest.mark.parametrize("text", ["short", "with a blank inside", "not-ascii-but-longé"])
def test_tokens_that_can_be_guessed_or_not_sent_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ServeError, match="openssl rand"):
        read_tokens(file, "")


def test_an_empty_file_of_tokens_is_no_open_door(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# none yet\n")
    with pytest.raises(ServeError, match="holds no token"):
        read_tokens(file, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "detector.example", ""])  # noqa: S104
def test_without_tokens_only_this_machine_is_answered(host: str) -> None:
    with pytest.raises(ServeError, match="--tokens FILE"):
        check_host(host, Tokens())
    check_host(host, Tokens.of(["0123456789abcdef"], "test"))
    for own in ("127.0.0.1", "localhost", "::1"):
        check_host(own, Tokens())


def test_a_spool_starts_empty_and_is_nobody_elses(tmp_path: Path) -> None:
    beside = tmp_path / "mine.txt"
    beside.write_text("x")
    (tmp_path / NAME / "worker-0").mkdir(parents=True)
    for left in ("0a" * 16, "worker-0/sound.raw"):  # of a service that was killed
        (tmp_path / NAME / left).write_text("x")
    with open_spool(tmp_path) as folder:
        assert [path.name for path in folder.iterdir()] == ["lock"]
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "upload").write_text("x")
        with pytest.raises(ServeError, match="in use"), open_spool(tmp_path):
            pass
        assert (folder / "upload").exists()
    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["lock"]
    assert beside.exists()


def test_a_spool_that_is_a_link_is_refused(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / NAME).symlink_to(precious)
    with pytest.raises(ServeError, match="of your own"), open_spool(tmp_path / "spool"):
        pass
    assert (precious / "file").exists()


def test_a_spool_in_a_folder_that_others_may_change_is_refused(tmp_path: Path) -> None:
    """Who can rename it puts a link there, and what that leads to is emptied when the service ends."""
    tmp_path.chmod(0o777)
    with pytest.raises(ServeError, match="--spool of your own"), open_spool(tmp_path):
        pass
    tmp_path.chmod(0o1777)  # as /tmp is: nobody renames what is another's
    with open_spool(tmp_path):
        pass


def test_a_link_to_the_spools_place_may_lead_elsewhere_later(tmp_path: Path) -> None:
    link = tmp_path / "link"
    for name in ("one", "two"):
        (tmp_path / name / NAME).mkdir(parents=True)
    link.symlink_to(tmp_path / "one")
    with open_spool(link) as folder:
        link.unlink()
        link.symlink_to(tmp_path / "two")
        (tmp_path / "two" / NAME / "precious").write_text("x")
        assert folder == (tmp_path / "one" / NAME).resolve()
    assert (tmp_path / "two" / NAME / "precious").exists()


@contextmanager
def command(detector: Path, spool: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`bmnas serve` as a process, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", "--work", str(detector), "--port", str(port), "--workers", "1", "--spool", str(spool)]
    log = spool.with_name(f"log-{port}")
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, "-m", "pipeline.cli", *arguments, *options], stderr=said)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            try:
                httpx.get(f"{url}/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.wait()


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.slow
def test_the_command_answers_ends_and_cleans_up_after_it_was_killed(
    detector: Path, tiny: TinyClips, tmp_path: Path
) -> None:
    clip, spool = tmp_path / "clip.mp4", tmp_path / "spool"
    tiny.put(clip)
    with command(detector, spool, "--max-minutes", "0.02") as (process, url):
        bad = [clip.read_bytes(), b"no video", b""]
        jobs = [httpx.post(f"{url}/v1/score", files={"file": ("x.mp4", one)}).json()["id"] for one in bad]
        told = [httpx.get(f"{url}/v1/jobs/{job}", params={"wait_s": 60}, timeout=90).json() for job in jobs]
        assert [each["state"] for each in told] == ["done"] * 3
        reasons = [each["result"]["reason"] for each in told]
        assert "longer than 1.2 s" in reasons[0]
        assert "not a media file" in reasons[1]
        assert reasons[2] == "the file is empty (0 bytes)"
        ours = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        (spool / NAME / "upload").write_text("somebody's film")
    psutil.wait_procs(ours, timeout=20)
    assert [each for each in ours if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    with command(detector, spool) as (process, url):
        assert not (spool / NAME / "upload").exists()
        job = httpx.post(f"{url}/v1/score", files={"file": ("x.mp4", clip.read_bytes())}).json()["id"]
        over = httpx.get(f"{url}/v1/jobs/{job}", params={"wait_s": 60}, timeout=90).json()["result"]
        assert "is (1, 2, 640); allowed: (B, 2, 4)" in over["reason"]  # it came to the network, which reads less
        assert over["answer"]["says"]
        page = httpx.get(f"{url}/v1/jobs/{job}/page").text
        assert "What a detector of fakes says of" in page
        assert str(tmp_path) not in page + httpx.get(f"{url}/v1/detector").text
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
    assert files(spool) == []


def test_a_service_that_cannot_start_so_says_why(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "spool")
    with pytest.raises(ServeError, match="--tokens FILE"):
        serve(settings, BUNDLE, public_key=None, host="0.0.0.0", port=0)  # noqa: S104
    with pytest.raises(ServeError, match="no such folder"):
        serve(replace(settings, root=tmp_path / "none"), BUNDLE, public_key=None, host="127.0.0.1", port=0)
    assert not (tmp_path / "spool").exists()


def test_a_detector_that_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    told = list[dict[str, str]]()

    async def heard() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def tell(message: dict[str, str]) -> None:
        told.append(message)

    worker = [sys.executable, "-c", """print('{"error": "its weights are others"}')"""]
    app = make_app(Settings(tmp_path), worker, ABOUT)
    with pytest.raises(ServeError):
        asyncio.run(app({"type": "lifespan", "state": {}}, heard, tell))  # type: ignore[arg-type]
    assert told[-1]["type"] == "lifespan.startup.failed"
    assert told[-1]["message"].endswith("a worker cannot load the detector: its weights are others")
    assert "\n" not in told[-1]["message"]
    assert list(tmp_path.iterdir()) == []


def test_settings_keep_no_token() -> None:
    secret = "0123456789abcdef"  # noqa: S105
    assert secret not in repr(Settings(Path(), tokens=Tokens.of([secret], "test")))
