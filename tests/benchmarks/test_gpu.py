"""`make gpu`: every part measures in small on the CPU, and one that fails or hangs costs itself only."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import page
from benchmarks.gpu.parts import DRY_SHARE, Plan, plans, pytest_command
from benchmarks.gpu.record import Figure, Part, Record, read_figures, read_record, write_record
from benchmarks.gpu.wheels import CARRIED, LOCK, locked

MACHINE = {"torch": "1.0", "gpu": "a card"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "figures"), [("search", 9), ("features", 8), ("many", 3)])
def test_a_part_measures_in_small(name: str, figures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", [name, "--device", "cpu", "--share", str(DRY_SHARE), "--out", str(out)])
    import_module(f"benchmarks.gpu.{name}").main()
    found = read_figures(out)
    assert len(found) == figures
    assert all(figure.value > 0 for figure in found)


FIGURE = 'import json, sys; open(sys.argv[1], "w").write(json.dumps([{"name": "n", "value": 2.5, "unit": "s"}]));'
TESTS = """
import pytest

def test_good(record_property):
    record_property("difference", "0.5 px; at most 1")

def test_bad():
    assert 1 == 2, "one is not two"

def test_left_out():
    pytest.skip("no reason")
"""


def test_a_part_that_fails_or_hangs_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = tmp_path / "test_made_up.py"
    tests.write_text(TESTS)
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--device')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    hangs = FIGURE + "import time; time.sleep(60)"
    made_up = [
        Plan("hangs", "", 0.4, lambda device, out, dry: ["-c", hangs, str(out)]),
        Plan("breaks", "", 5, lambda device, out, dry: ["-c", FIGURE + "raise SystemExit('no memory')", str(out)]),
        Plan("tests", "", 5, pytest_command("", str(tests)), tests=True),
        Plan("works", "", 5, lambda device, out, dry: ["-c", FIGURE, str(out)]),
    ]
    monkeypatch.setattr(gpu, "plans", lambda share: made_up)
    monkeypatch.setattr(gpu, "described", lambda: {"torch": "1.0"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(out)])
    assert gpu.main() == 1
    record = read_record(out)
    assert record.dry
    hung, broken, tested, worked = record.parts
    assert [part.status for part in record.parts] == ["late", "failed", "failed", "ok"]
    assert hung.error == "ended after 4 s"
    assert hung.figures == broken.figures == worked.figures == [Figure("n", 2.5, "s")], "what was measured is kept"
    assert broken.error == "no memory"
    assert (tested.passed, tested.skipped) == (1, 1)
    assert [(name.rpartition("::")[2], why) for name, why in tested.failures.items()] == [
        ("test_bad", "AssertionError: one is not two")
    ]
    assert tested.figures == [Figure("difference", 0.5, "px", "at most 1")]
    text = page.tables(record)
    assert "Dry run" in text
    assert "| n | 2.5 s |  |" in text


def test_parts_end_within_eight_minutes_and_cover_what_the_page_lists() -> None:
    assert sum(plan.budget_s for plan in plans(1.0)) <= gpu.TOTAL_S < 480
    text = page.PAGE.read_text()
    assert all(f"| `{plan.name}` |" in text for plan in plans(1.0))


def test_the_page_takes_figures_of_a_gpu_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("search", "a search step", 50, figures=[Figure("step", 1.25, "ms", "at most 2")])
    path, target = tmp_path / "gpu.json", tmp_path / "gpu.md"
    target.write_text(page.PAGE.read_text())
    monkeypatch.setattr(sys, "argv", ["page", str(path), "--page", str(target)])
    for dry in (True, False):
        write_record(path, Record(MACHINE, "2026-01-01", "abc", dry, 3.0, [part]))
        assert read_record(path).parts == [part]
        assert page.main() == int(dry)
        assert ("| step | 1.25 ms | at most 2 |" in target.read_text()) is not dry
    once = target.read_text()
    page.main()
    assert target.read_text() == once
    path.write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match="schema 0; allowed: 1: run `make gpu` again"):
        read_record(path)


def test_what_is_carried_is_pinned_with_hashes() -> None:
    lock = LOCK.read_text()
    for name in CARRIED:
        assert locked(lock, name, "3.12").startswith(f"{name}==")
        assert "--hash=sha256:" in locked(lock, name, "3.12")
    assert locked(lock, "numcodecs", "3.11") != locked(lock, "numcodecs", "3.12")
    with pytest.raises(KeyError, match=r"no-such is not in requirements\.lock"):
        locked(lock, "no-such", "3.12")


NOT_CARRIED = ("cryptography", "dask", "distributed", "dvc", "imageio_ffmpeg", "vl_convert")
IMPORTS = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_CARRIED}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import benchmarks.gpu.search, benchmarks.gpu.features, benchmarks.gpu.many, benchmarks.gpu.__main__
import pipeline.cli.experiments, pipeline.experiments.sweep, tests.gpu.test_features, tests.gpu.test_search
"""


@pytest.mark.slow
def test_what_is_not_carried_is_not_imported() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
