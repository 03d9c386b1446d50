"""What the service answers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from pipeline.detector.page import policy
from tests.pipeline.serve.conftest import TOKEN, Live, Start

GOOD = b"film\n" + bytes(5000)


def test_an_upload_is_scored_and_gone(live: Live) -> None:
    sent = live.send(GOOD, "Angela's secret.mp4")
    assert sent.status_code == 202
    job = sent.json()
    assert sent.headers["location"] == f"/v1/jobs/{job['id']}"
    assert len(job["id"]) == 32
    over = live.client.get(f"/v1/jobs/{job['id']}", params={"wait_s": 20}).json()
    assert (over["state"], over["share"], over["ahead"]) == ("done", 1.0, 0)
    assert over["result"]["path"] == "upload"
    assert over["result"]["answer"]["log10_lr"] == 0.6
    assert [window["start_s"] for window in over["result"]["windows"]] == [0.2, 3.9]
    assert live.left() == []
    assert "secret" not in json.dumps(over)


def test_an_upload_lies_in_the_spool_by_another_name_and_for_nobody_else(live: Live) -> None:
    job = live.send(b"wait 0.5\n", "../../etc/passwd").json()
    (name,) = live.left()
    assert len(name) == 32
    assert "passwd" not in name
    assert (live.spool / name).stat().st_mode & 0o077 == 0
    live.client.get(f"/v1/jobs/{job['id']}", params={"wait_s": 20})
    assert live.left() == []


def test_events_tell_a_job_from_its_beginning_to_its_end(live: Live) -> None:
    job = live.send(b"wait 0.3\n").json()
    with live.client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line.startswith(("data:", "event:"))]
    assert {line for line in lines if line.startswith("event:")} == {"event: job"}
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data:")]
    assert [(each["state"], each["share"]) for each in told[-2:]] == [("running", 0.5), ("done", 1.0)]
    assert told[-1]["result"]["score"] == 0.7


@pytest.mark.parametrize(
    ("what", "why"), [(b"die\n", "died"), (b"hang\n", "longer than 1 s"), (b"nonsense\n", "no sense")]
)
def test_a_worker_that_is_lost_is_replaced_and_the_job_says_so(start: Start, what: bytes, why: str) -> None:
    with start(time_limit_s=1) as live:
        over = live.result(what)
        assert over["state"] == "failed"
        assert why in over["result"]["reason"]
        assert over["result"]["answer"]["says"].startswith("cannot tell")
        assert live.result(GOOD)["state"] == "done"
        assert live.left() == []
        told = live.client.get("/metrics").text
        assert 'bmnas_jobs_total{outcome="failed"} 1.0' in told
        assert "bmnas_worker_restarts_total 1.0" in told
        assert live.client.get("/healthz").json() == {"status": "ok", "workers": 1, "held": 0}


def test_a_worker_that_dies_while_nobody_asks_is_replaced(start: Start) -> None:
    """Else /healthz says for ever that none is ready, and a proxy that believes it sends no more clips."""
    with start() as live:
        (worker,) = live.app.state.service.jobs.workers
        before = worker.pid
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: worker.pid not in (before, None) and live.client.get("/healthz").status_code == 200)
        assert live.result(GOOD)["state"] == "done"


def test_who_asks_nothing_is_cut(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serve.connections.REQUEST_SECONDS", 0.2)
    with start() as live:
        address = ("127.0.0.1", httpx.URL(live.url).port or 0)
        for begun in (b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /h"):
            with socket.create_connection(address, timeout=5) as idle, contextlib.suppress(ConnectionResetError):
                idle.sendall(begun)
                while idle.recv(4096):
                    pass
        job = live.send(b"wait 1\n").json()  # who waits for an answer is not
        assert live.client.get(f"/v1/jobs/{job['id']}", params={"wait_s": 5}).json()["state"] == "done"


def test_connections_are_not_without_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serve.connections.MOST", 4)
    with start() as live, contextlib.ExitStack() as held:
        address = ("127.0.0.1", httpx.URL(live.url).port or 0)
        idle = [held.enter_context(socket.create_connection(address, timeout=5)) for _ in range(9)]
        with contextlib.suppress(ConnectionResetError):
            assert idle[-1].recv(1) == b""
        idle[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[0].recv(100).startswith(b"HTTP/1.1 200")


def test_beyond_the_queue_the_answer_is_503_and_nothing_else(start: Start) -> None:
    with start(queue=1) as live:
        gate = live.root / "gate"
        gate.touch()
        sent = [live.send(f"{gate}\n".encode()), live.send(GOOD), live.send(GOOD)]
        assert [each.status_code for each in sent] == [202, 202, 503]
        assert sent[2].headers["retry-after"] == "5"
        assert sent[2].headers["content-type"] == "application/problem+json"
        gate.unlink()
        last = live.client.get(f"/v1/jobs/{sent[1].json()['id']}", params={"wait_s": 20}).json()
        assert last["state"] == "done"
        assert live.send(GOOD).status_code == 202
        assert "bmnas_refused_total 1.0" in live.client.get("/metrics").text


@pytest.mark.parametrize("extra", [0, 1])
def test_the_size_is_counted_as_it_arrives(live: Live, extra: int) -> None:
    """Chunked: no Content-Length tells it before."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + bytes(100_000 + extra)
        + b"\r\n--x--\r\n"
    )
    pieces = (body[i : i + 8192] for i in range(0, len(body), 8192))
    sent = live.client.post("/v1/score", content=pieces, headers={"content-type": "multipart/form-data; boundary=x"})
    assert sent.status_code == (413 if extra else 202)
    if extra:
        assert "100,000 bytes" in sent.json()["detail"]
    wait_until(lambda: live.left() == [])


def test_a_declared_size_is_not_trusted_but_refused_at_once(live: Live) -> None:
    with socket.create_connection(live.url.removeprefix("http://").split(":")) as raw:  # type: ignore[arg-type]
        raw.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 999999999999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x", 422, "another field"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nab',
            "multipart/form-data; boundary=x",
            400,
            "cut",
        ),
        (b"--y--\r\n", "multipart/form-data; boundary=x", 400, "not the multipart form"),
        (b"", "multipart/form-data", 400, "no boundary"),
        (b"ab", "video/mp4", 415, "multipart/form-data"),
        (b"{}", "application/json", 422, "path"),
        (b'{"path": "a", "hop": 1}', "application/json", 422, "hop"),
        (b"{", "application/json", 422, "JSON"),
        (b" " * 70_000, "application/json", 413, "65,536"),
    ],
)
def test_what_is_not_asked_well_is_told(live: Live, body: bytes, kind: str, status: int, why: str) -> None:
    sent = live.client.post("/v1/score", content=body, headers={"content-type": kind})
    assert sent.status_code == status
    assert sent.headers["content-type"] == "application/problem+json"
    assert why in sent.json()["detail"]
    assert sent.json()["status"] == status
    assert live.left() == []


def test_several_files_are_refused(live: Live) -> None:
    sent = live.client.post("/v1/score", files=[("file", ("a", b"1")), ("file", ("b", b"2"))])
    assert (sent.status_code, live.left()) == (422, [])


def test_an_upload_that_breaks_off_leaves_nothing(live: Live) -> None:
    with socket.create_connection(live.url.removeprefix("http://").split(":")) as raw:  # type: ignore[arg-type]
        raw.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n"
            b'Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; name="file"'
            b"\r\n\r\n" + bytes(20_000)
        )
        wait_until(lambda: len(live.left()) == 1)
        assert live.client.get("/healthz").json()["held"] == 1
    wait_until(lambda: live.left() == [])
    assert live.client.get("/healthz").json()["held"] == 0


def test_a_stalled_upload_is_given_up(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serve.upload.STALL_SECONDS", 0.2)
    with socket.create_connection(live.url.removeprefix("http://").split(":")) as raw:  # type: ignore[arg-type]
        raw.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nExpect: 100-continue\r\n\r\n"
        )
        told = raw.recv(1000) + raw.recv(1000)
    assert b"HTTP/1.1 408" in told
    assert live.left() == []


def test_a_path_below_the_folder_is_scored_and_stays(live: Live) -> None:
    (live.root / "a").mkdir()
    (live.root / "a" / "clip.mp4").write_bytes(GOOD)
    job = live.client.post("/v1/score", json={"path": "a/clip.mp4"}).json()
    over = live.client.get(f"/v1/jobs/{job['id']}", params={"wait_s": 20}).json()
    assert over["result"]["path"] == "a/clip.mp4"
    assert (live.root / "a" / "clip.mp4").read_bytes() == GOOD


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "link", "a/../../outside", "none.mp4", ".", "x" * 4000, "a\0b", "pipe"]
)
def test_a_path_that_leads_outside_or_nowhere_is_refused_in_the_same_words(live: Live, path: str) -> None:
    outside = live.root.parent / "outside"
    outside.write_bytes(GOOD)
    if not (live.root / "link").is_symlink():
        (live.root / "link").symlink_to(outside)
        __import__("os").mkfifo(live.root / "pipe")
    sent = live.client.post("/v1/score", json={"path": path})
    assert sent.status_code == 404
    assert sent.json()["detail"] == "below the service's folder there is no such file that can be read"


def test_without_a_folder_no_path_is_taken(start: Start) -> None:
    with start(root=None) as live:
        sent = live.client.post("/v1/score", json={"path": "/etc/passwd"})
        assert sent.status_code == 404
        assert "--root" in sent.json()["detail"]


def test_results_are_kept_for_the_stated_time(start: Start) -> None:
    with start(keep_s=0.3) as live:
        job = live.result(GOOD)
        assert job["state"] == "done"
        time.sleep(0.4)
        gone = live.client.get(f"/v1/jobs/{job['id']}")
        assert gone.status_code == 404
        assert "kept for 0.3 s" in gone.json()["detail"]


def test_the_oldest_results_go_first(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serve.jobs.MOST_KEPT", 2)
    with start() as live:
        ids = [live.result(GOOD)["id"] for _ in range(3)]
        assert [live.client.get(f"/v1/jobs/{name}").status_code for name in ids] == [404, 200, 200]


def test_the_answers_page_is_that_of_predict_html(live: Live) -> None:
    job = live.send(b"wait 0.3\n").json()
    early = live.client.get(f"/v1/jobs/{job['id']}/page")
    live.client.get(f"/v1/jobs/{job['id']}", params={"wait_s": 20})
    shown = live.client.get(f"/v1/jobs/{job['id']}/page")
    assert (early.status_code, shown.status_code) == (404, 200)
    assert "Weak support for a fake" in shown.text
    assert "<title>A video scored by bmnas: weak support for a fake</title>" in shown.text
    assert "the service keeps neither" in shown.text
    assert "AUC 0.90 on other people" in shown.text
    assert shown.headers["content-security-policy"] == policy()


def test_only_who_knows_a_token_may_ask(guarded: Live) -> None:
    for path in ("/v1/detector", "/v1/jobs/x", "/v1/jobs/x/events", "/v1/jobs/x/page", "/metrics"):
        for header in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            sent = guarded.client.get(path, headers=header)
            assert (path, sent.status_code) == (path, 401)
            assert sent.headers["www-authenticate"] == "Bearer"
    assert guarded.send(GOOD).status_code == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.client.get("/v1/detector", headers=right).json()["detector"]["worth"] == "AUC 0.90 on other people"
    assert guarded.client.post("/v1/score", files={"file": GOOD}, headers=right).status_code == 202
    assert guarded.client.get("/healthz").status_code == guarded.client.get("/").status_code == 200


def test_the_detector_says_what_it_takes(live: Live) -> None:
    assert live.client.get("/v1/detector").json()["limits"] == {
        "max_bytes": 100_000, "max_duration_s": 3600.0, "time_limit_s": 900.0, "keep_s": 3600.0, "paths": True,
    }  # fmt: skip


def test_other_sites_and_other_names_may_not_ask(live: Live, guarded: Live) -> None:
    post = {"files": {"file": GOOD}}
    assert live.client.post("/v1/score", headers={"Origin": "https://evil.example"}, **post).status_code == 403  # type: ignore[arg-type]
    assert live.client.post("/v1/score", headers={"Origin": "null"}, **post).status_code == 403  # type: ignore[arg-type]
    assert live.client.post("/v1/score", headers={"Origin": live.url}, **post).status_code == 202  # type: ignore[arg-type]
    assert live.client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403
    assert live.client.get("/healthz", headers={"Host": "localhost:1"}).status_code == 200
    assert guarded.client.get("/healthz", headers={"Host": "detector.example"}).status_code == 200
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    asked = live.client.options("/v1/score", headers=preflight)
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers(live: Live) -> None:
    for path in ("/", "/page/serve.js", "/v1/detector", "/healthz", "/none", "/openapi.json"):
        headers = live.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers or path


def test_nothing_loads_from_elsewhere(live: Live) -> None:
    assert live.client.get("/docs").status_code == live.client.get("/redoc").status_code == 404
    folder = Path(__import__("pipeline.serve").serve.__file__).parent / "page"
    for file in folder.iterdir():
        assert "://" not in file.read_text()


def test_metrics_name_nobody(live: Live) -> None:
    (live.root / "private.mp4").write_bytes(GOOD)
    job = live.client.post("/v1/score", json={"path": "private.mp4"}).json()
    live.client.get(f"/v1/jobs/{job['id']}", params={"wait_s": 20})
    live.client.get("/private/address")
    told = live.client.get("/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "private" not in told.text
    assert job["id"] not in told.text
    for line in (
        'bmnas_jobs_total{outcome="answered"}', "bmnas_workers_ready 1.0", "bmnas_jobs_held 0.0",
        'bmnas_requests_total{method="POST",route="/v1/score",status="202"}', "bmnas_job_seconds_count",
        "process_resident_memory_bytes",
    ):  # fmt: skip
        assert line in told.text


def test_many_at_once_all_get_their_own_answer(live: Live) -> None:
    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            sent = await asyncio.gather(*(client.post("/v1/score", files={"file": GOOD}) for _ in range(40)))
        return [each.status_code for each in sent]

    assert set(asyncio.run(ask())) <= {202, 503}
    wait_until(lambda: live.client.get("/healthz").json()["held"] == 0)
    assert live.left() == []


def wait_until(true: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
