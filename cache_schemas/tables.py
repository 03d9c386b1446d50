"""CSV tables that people open: a spreadsheet runs nothing in them, and what is read back is what was written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.files import write_text

# A spreadsheet takes a cell that begins so for a formula; where `;` parts cells, so is what follows one inside a text.
_FORMULA = re.compile(r"(^|;)(?=[ \t']*[=+\-@])", re.MULTILINE)
_HARMLESS = re.compile(r"(^|;)'(?=[ \t']*[=+\-@])", re.MULTILINE)


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Replaces `path` by the table. A text like a formula gets an apostrophe before it, which spreadsheets take for
    "this is text"; half a surrogate pair, which UTF-8 cannot say, stands as an escape.
    """
    written = _replaced(frame, _FORMULA, r"\1'").to_csv(index=False)
    write_text(path, written.encode("utf-8", "backslashreplace").decode("utf-8"))


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """The table that `write_table` wrote, without its apostrophes; `options` are those of pandas.read_csv."""
    return _replaced(pd.read_csv(path, **options), _HARMLESS, r"\1")


def _replaced(frame: pd.DataFrame, pattern: re.Pattern[str], by: str) -> pd.DataFrame:
    """The table with the pattern replaced in every text; other values as they are."""
    changed = {}
    for name in frame.select_dtypes(["object", "string"]).columns:
        values = frame[name].tolist()
        # Nearly no column has any: one search through all of it takes a tenth of the time.
        if pattern.search("\n".join(value for value in values if isinstance(value, str))):
            changed[name] = [pattern.sub(by, value) if isinstance(value, str) else value for value in values]
    return frame.assign(**changed)
