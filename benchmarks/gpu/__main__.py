"""`make gpu`: runs all parts, one after the other, and writes benchmarks/results/gpu.json.

Exits with 1 where a part failed or was late; the others are run and written all the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.markup import escape

from benchmarks.gpu.page import tables
from benchmarks.gpu.parts import SHARE, Plan, plans
from benchmarks.gpu.record import Figure, Part, Record, read_figures, write_record

RESULT = Path(__file__).parents[1] / "results" / "gpu.json"
TOTAL_S = 465.0
"""All parts together: what is left of it bounds each part, too."""
DRY_PATIENCE = 10
"""A dry run's machine may have any number of cores, and others may use them."""
COMMIT = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
"""With a + where the tree differs; says nothing in a copy without .git."""
LINES = 15
"""Of what a part said last, kept where it fails."""


def main() -> int:
    """What `make gpu` exits with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=SHARE, help="of 20,000 windows and 512 architectures (many.py)")
    parser.add_argument("--only", default="", help="parts to run, separated by commas; empty: all")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    chosen = [plan for plan in plans(given.share) if not given.only or plan.name in given.only.split(",")]
    if not chosen:
        parser.error(f"--only is {given.only!r}; allowed: {', '.join(plan.name for plan in plans(given.share))}")
    machine = described()
    dry = "gpu" not in machine
    start, begun, parts = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds"), list[Part]()
    for plan in chosen:
        patience = DRY_PATIENCE if dry else 1
        budget_s = min(patience * plan.budget_s, patience * TOTAL_S - (time.monotonic() - start))
        parts.append(done(replace(plan, budget_s=budget_s), "cpu" if dry else "cuda", dry))
        record = Record(machine, begun, said_by(COMMIT), dry, time.monotonic() - start, parts)
        write_record(given.out, record)  # after each part: the machine may be gone before the last one
    Console().print(escape(tables(record)), soft_wrap=True)
    return int(any(part.status != "ok" for part in parts))


def done(plan: Plan, device: str, dry: bool) -> Part:
    """What became of a part: nothing that it does ends the others."""
    part = Part(plan.name, plan.title, plan.budget_s)
    if plan.budget_s <= 0:
        return replace(part, status="late", error="no time was left")
    with tempfile.TemporaryDirectory(prefix="bmnas-gpu-") as folder:
        out, said = Path(folder) / "out", Path(folder) / "said"
        start = time.monotonic()
        with said.open("wb") as log:
            # A session of its own: whatever it started ends with it.
            process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, *plan.command(device, out, dry)], stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(plan.budget_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                part.status, part.error = "late", f"ended after {plan.budget_s:.0f} s"
            else:
                part.status = "failed" if code else "ok"
        part.seconds = time.monotonic() - start
        if part.status == "failed":
            lines = said.read_text(errors="replace").splitlines()
            part.error = "\n".join(lines[-LINES:])
        if plan.tests:
            add_tests(part, out)
        else:
            part.figures = read_figures(out)
    return part


def add_tests(part: Part, report: Path) -> None:
    """Adds what JUnit's XML says: how many passed, why the others failed, and what they recorded."""
    if not report.exists():  # the part was late
        return
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest's, of a moment ago
        name = f"{case.get('classname')}::{case.get('name')}"
        trouble = [*case.iter("failure"), *case.iter("error")]
        if trouble:
            part.failures[name] = (trouble[0].get("message") or "").partition("\n")[0][:300]
        elif case.find("skipped") is not None:
            part.skipped += 1
        else:
            part.passed += 1
        for recorded in case.iter("property"):
            value, _, rest = str(recorded.get("value")).partition(" ")
            unit, _, goal = rest.partition("; ")
            part.figures.append(Figure(str(recorded.get("name")), float(value), unit, goal))


def described() -> dict[str, str]:
    """The machine in words; "gpu" and "driver" only where torch finds one."""
    import torch  # noqa: PLC0415 - seconds, which --help need not wait for

    found = {name: version(name) for name in ("torch", "timm", "numpy")} | {"python": platform.python_version()}
    found |= {"machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"}
    if torch.cuda.is_available():
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        found |= {"gpu": torch.cuda.get_device_name(), "driver": said_by(asked), "cuda": str(torch.version.cuda)}
    return found


def said_by(command: list[str]) -> str:
    """What a program prints; empty where it is not here."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()  # noqa: S603 - ours
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
