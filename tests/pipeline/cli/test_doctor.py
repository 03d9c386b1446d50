"""`bmnas doctor`, on this machine as it is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pipeline import media
from pipeline.cli import app
from pipeline.decoder.jail import why_unfiltered


def test_it_says_what_a_decoder_of_this_machine_may_do() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert found["wall"]["filtered"] == (not why_unfiltered())
    assert result.exit_code == (0 if found["wall"]["filtered"] else 1)
    assert found["wall"]["limits"]["memory_bytes"] == 4 << 30
    assert {"h264", "hevc", "aac"} <= set(found["wall"]["codecs"])
    assert "snow" not in found["wall"]["codecs"]
    assert found["packages"]["av"].count(".") == 2
    assert found["machine"]["cores"] >= 1


def test_a_wall_that_does_not_stand_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    none = replace(media.isolation(), filtered=False, why_not_filtered="the kernel has no seccomp for us: a reason")
    monkeypatch.setattr(media, "isolation", lambda: none)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "not held: the kernel has no seccomp for us: a reason" in " ".join(result.stdout.split())
