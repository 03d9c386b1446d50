"""Renders what a run of `make gpu` wrote into docs/gpu.md: `python -m benchmarks.gpu.page benchmarks/results/gpu.json`.

Only what stands between the two marks is replaced. A dry run is refused: it measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.gpu.record import Part, Record, read_record

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> int:
    """0 where the page was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    record = read_record(given.record)
    if record.dry:
        print(
            f"{given.record} is of a dry run on the CPU, which measures nothing: run `make gpu` on a machine with a GPU"
        )
        return 1
    given.page.write_text(rendered(given.page.read_text(), record))
    return 0


def rendered(page: str, record: Record) -> str:
    """The page with the record's tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(record)}\n{END}{after}"


def tables(record: Record) -> str:
    """What was run where, and a table of each part, as Markdown."""
    machine = "; ".join(f"{name} {value}" for name, value in record.machine.items())
    kind = "Dry run on the CPU, in small: no figure here means anything." if record.dry else "Measured."
    lines = [
        f"{kind} {record.date}, commit {record.commit or 'unknown'}, {record.seconds:.0f} s in all. {machine}.",
        "",
    ]
    for part in record.parts:
        lines += [f"**{part.name}**: {part.title}. {outcome(part)}", ""]
        if part.figures:
            lines += ["| figure | value | goal |", "| --- | ---: | --- |"]
            lines += [f"| {f.name} | {f.value:.4g} {f.unit} | {f.goal} |" for f in part.figures]
            lines.append("")
    return "\n".join(lines)


def outcome(part: Part) -> str:
    """How a part ended, in a sentence or two."""
    counted = part.passed + part.skipped + len(part.failures)
    tests = f" {part.passed} tests passed, {part.skipped} skipped, {len(part.failures)} failed." if counted else ""
    failures = "".join(f" `{name}`: {why}." for name, why in list(part.failures.items())[:20])
    error = f" It said: `{part.error.splitlines()[-1]}`." if part.error else ""
    return f"{part.status.capitalize()} after {part.seconds:.0f} s.{tests}{failures}{error}"


if __name__ == "__main__":
    sys.exit(main())
