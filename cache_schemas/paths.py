"""Names as text that any file, table and terminal can hold: odd bytes are written %XX."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes


def path_text(name: str) -> str:
    """`name` (as Python gives it: undecodable bytes are surrogates) with the bytes of `%` and of everything that
    cannot be printed (control characters, newlines, marks that turn text round, bytes that are not UTF-8) as %XX.
    """
    return "".join(char if char.isprintable() and char != "%" else _escaped(char) for char in name)


def plain_text(text: str) -> str:
    """`text` (somebody's name, a method) with what cannot be printed as %XX; a `%` stays: nothing turns it back."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def path_name(text: str) -> str:
    """The name that `path_text` made into `text`."""
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _escaped(char: str) -> str:
    # Half a surrogate pair that stands for no byte can come from a JSON file; no file on disk has such a name.
    is_byte = "\udc80" <= char <= "\udcff"
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass"))
