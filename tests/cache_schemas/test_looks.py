"""Looks at a test split are added by processes that know nothing of each other, and may be killed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from cache_schemas.looks import Look, add_look, read_looks


def look(number: int = 0, command: str = "evaluate") -> Look:
    return Look(test="t", command=command, settings=f"s{number}")


def test_the_same_look_is_there_once_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "work" / "looks.jsonl"
    assert read_looks(path) == ([], [])
    for each in (look(1), look(2), look(1), look(1, "sweep")):
        add_look(path, each)
    assert read_looks(path) == ([look(1), look(2), look(1, "sweep")], [])
    before = path.read_bytes()
    add_look(path, look(2))
    assert path.read_bytes() == before


def test_when_it_was_makes_no_other_look(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    add_look(path, look())
    line = path.read_text()
    assert '"when":"20' in line
    path.write_text(line + line.replace('"when":"20', '"when":"19'))
    assert read_looks(path) == ([look()], [])


@pytest.mark.parametrize("left", [b'{"schema_version":1,"test":"t","comm', b"\xff\x00\xfe", b'{"test": 3}'])
def test_what_a_killed_process_left_is_named_and_loses_no_other(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "looks.jsonl"
    add_look(path, look(1))
    whole = path.read_bytes()
    path.write_bytes(whole + left)  # no end of the line
    assert read_looks(path) == ([look(1)], [2])
    add_look(path, look(2))
    assert read_looks(path) == ([look(1), look(2)], [2])
    assert path.read_bytes().startswith(whole + left + b"\n"), "no line is ever changed"


def _add(path: Path, start: int) -> None:
    for number in range(start, start + 100):
        add_look(path, look(number))


def test_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(path, 80 * number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    found, damaged = read_looks(path)
    assert (len(found), damaged) == (260, [])
