"""Under which name the page of each file is written: one that any file system takes, inside the folder."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

_MOST_BYTES = 200
_PLAIN = "-_."
"""All that is kept besides letters and digits."""


def page_names(files: Iterable[Path]) -> dict[Path, str]:
    """{file: "NAME.html"}, all different, in any spelling; of files of one name the later ones have a number."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        if file in names:
            continue
        plain, number = _plain(file.name), 1
        name = f"{plain}.html"
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}.html"
        taken.add(name.casefold())
        names[file] = name
    return names


def _plain(name: str) -> str:
    kept = "".join(char if char.isalnum() or char in _PLAIN else "_" for char in unicodedata.normalize("NFC", name))
    kept = kept.encode()[:_MOST_BYTES].decode(errors="ignore")
    return kept.strip(".-") or "file"
