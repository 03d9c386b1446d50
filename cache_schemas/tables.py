"""CSV tables that people open: a spreadsheet runs nothing in them, and what is read back is what was written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.files import write_text

# A spreadsheet takes a cell that begins so for a formula; where `;` parts cells, so is what follows one inside a text.
_FORMULA = re.compile(r"(^|;)(?=[\s']*[=+\-@])")
_HARMLESS = re.compile(r"(^|;)'(?=[\s']*[=+\-@])")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Replaces `path` by the table. A text like a formula gets an apostrophe before it, which spreadsheets take for
    "this is text"; half a surrogate pair, which UTF-8 cannot say, stands as an escape.
    """
    written = _texts(frame, lambda text: _FORMULA.sub(r"\1'", text)).to_csv(index=False)
    write_text(path, written.encode("utf-8", "backslashreplace").decode("utf-8"))


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """The table that `write_table` wrote, without its apostrophes; `options` are those of pandas.read_csv."""
    return _texts(pd.read_csv(path, **options), lambda text: _HARMLESS.sub(r"\1", text) if "'" in text else text)


def _texts(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The table with every text changed; other values as they are."""
    texts = frame.select_dtypes(["object", "string"]).columns
    return frame.assign(
        **{name: frame[name].map(lambda value: change(value) if isinstance(value, str) else value) for name in texts}
    )
