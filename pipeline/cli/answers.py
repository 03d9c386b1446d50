"""Answers of a detector, as `bmnas predict` writes them: to read, as JSON, as a table."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from cache_schemas.paths import path_text, plain_text
from pipeline.cli.reasons import reasons

if TYPE_CHECKING:
    from pipeline.detector.prediction import Person, Prediction
    from pipeline.statistics.answers import Answer

Write = Callable[["Prediction"], None]


def json_lines() -> Write:
    """Writes an object a line, as soon as it is there."""
    return lambda prediction: print(json.dumps(asdict(prediction)), flush=True)


_CSV = (
    *("path", "answer", "log10_lr", "lowest", "highest", "probability", "score", "picture", "sound", "windows"),
    *("others", "other_answer", "other_log10_lr", "other_from_s", "other_to_s"),
)


def csv_rows() -> Write:
    """Writes a row a file, the columns' names first.

    A name that a spreadsheet would take for a formula is written with ./ before it.
    """
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(_CSV)

    def write(prediction: Prediction) -> None:
        answer, path = prediction.answer, path_text(prediction.path)
        alone = (prediction.modalities.get(name) for name in ("visual", "audio"))
        other = next(iter(_strongest_first(prediction.people)), None)
        table.writerow(
            [
                f"./{path}" if path.startswith(("=", "+", "-", "@")) else path,
                plain_text(answer.says),
                answer.log10_lr,
                *(answer.limits or (None, None)),
                answer.probability,
                prediction.score,
                *(of and plain_text(of.says) for of in alone),
                len(prediction.windows),
                len(prediction.people),
                *(
                    [plain_text(other.answer.says), other.answer.log10_lr, other.first_s, other.last_s]
                    if other
                    else [None] * 4
                ),
            ]
        )
        sys.stdout.flush()

    return write


def _strongest_first(people: Sequence[Person]) -> list[Person]:
    """By what speaks for a fake; those of whom nothing can be said come last."""
    lr = [-math.inf if each.answer.log10_lr is None else each.answer.log10_lr for each in people]
    return [people[i] for i in sorted(range(len(people)), key=lambda i: -lr[i])]


def text(out: Console) -> Write:
    """Writes what people read."""
    from pipeline.statistics.strength import signed

    def write(prediction: Prediction) -> None:
        out.print(f"[bold]{escape(path_text(prediction.path))}[/]", soft_wrap=True, highlight=False)
        rows = Table.grid(padding=(0, 2, 0, 0))
        for name, answer in {"fusion": prediction.answer, **prediction.modalities}.items():
            rows.add_row(_WHOSE[name] if prediction.modalities else "", escape(_answer_text(answer)))
        if prediction.shares:
            told = ", ".join(f"{_PART[name]} {signed(share)}" for name, share in prediction.shares.items())
            rows.add_row("of log10 LR", f"{told} (Shapley shares)")
        if prediction.score is not None:
            rows.add_row("the networks", prediction.agreement)
            rows.add_row("raw P(fake)", f"{prediction.score:.3f}, no evidence by itself")
            windows = "  ".join(f"{round(window.start_s, 2):g}: {window.score:.3f}" for window in prediction.windows)
            rows.add_row("", f"from second {windows}")
        if prediction.explanation:
            for row in reasons(prediction.explanation):
                rows.add_row(*row)
        if prediction.quality:
            rows.add_row("the input", "\n".join(map(plain_text, prediction.quality)))
        if prediction.provenance:
            rows.add_row("C2PA", escape(plain_text(prediction.provenance["says"])))
        for person in _strongest_first(prediction.people)[:_MOST_PEOPLE]:
            rows.add_row("a face", f"seen from second {person.first_s:.1f} to {person.last_s:.1f}")
            for name, answer in {"fusion": person.answer, "visual": person.modalities["visual"]}.items():
                rows.add_row(f"  {_WHOSE[name]}", escape(_answer_text(answer)))
        if (more := len(prediction.people) - _MOST_PEOPLE) > 0:
            rows.add_row("", f"and {more} more that speak less for a fake: --json has them all")
        out.print(Padding(rows, (0, 0, 0, 2), expand=False), highlight=False)

    return write


_MOST_PEOPLE = 5
_PART = {"visual": "picture", "audio": "sound"}
_WHOSE = {"fusion": "picture and sound", "visual": "picture alone", "audio": "sound alone"}


def _answer_text(answer: Answer) -> str:
    if answer.log10_lr is None or answer.limits is None:
        return plain_text(answer.says)
    from pipeline.statistics.strength import signed

    lr, low, high = (signed(value) for value in (answer.log10_lr, *answer.limits))
    return (
        f"{answer.says}\nlog10 LR {lr} (claims end at {low} and {high}); at even odds P(fake) {answer.probability:.2f}"
    )
