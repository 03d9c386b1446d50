"""A small version of `make soak-serve`, over workers that only pretend."""

import asyncio
import os

import pytest

from tests.pipeline.serve.conftest import Start
from tests.soak.serve import SENDERS, healthy, load, uploads


@pytest.mark.slow
def test_under_more_uploads_than_it_can_take_there_is_503_and_nothing_is_left(start: Start) -> None:
    clips, hostile = [b"wait 0.2\n" + bytes(200_000)], [b"", b"die\n", b"nonsense\n"]
    with start(max_bytes=8_000_000, queue=8, workers=2) as live:
        source = uploads(clips, hostile, seed=0)
        tally = asyncio.run(load(live.url, os.getpid(), source, seconds=3, senders=SENDERS))
        assert tally.wrong == {}
        assert any(kind.endswith(": 503") for kind in tally.answers)
        assert tally.outcomes["scored"] > 0
        assert healthy(live.url)
        assert live.client.get("/healthz").json()["held"] == 0
        assert live.left() == []
