"""What the service is told when it starts: limits, folders, tokens."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path

TOKENS = "BMNAS_TOKENS"
"""The environment variable that may hold them, with blanks between."""
LEAST_TOKEN = 16
"""Letters. Shorter ones can be guessed."""


class ServeError(RuntimeError):
    """The service cannot start so; the message says why and what to do."""


@dataclass(frozen=True)
class Tokens:
    """Who knows one of these may ask. Only their SHA-256 is kept."""

    digests: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, texts: list[str], source: str) -> Tokens:
        """Raises ServeError where one is too short or holds what no header can."""
        for i, text in enumerate(texts, 1):
            if len(text) < LEAST_TOKEN or not (text.isascii() and text.isprintable()) or " " in text:
                raise ServeError(
                    f"{source}: token {i} is no {LEAST_TOKEN} or more printable ASCII letters without blanks; "
                    "make one: `openssl rand -hex 32`"
                )
        return cls(tuple(hashlib.sha256(text.encode()).digest() for text in texts))

    def __bool__(self) -> bool:
        return bool(self.digests)

    def know(self, text: str) -> bool:
        """Whether it is one of them, in a time that says nothing of which or how much of it is right."""
        given = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        return sum(hmac.compare_digest(given, digest) for digest in self.digests) > 0  # all of them, each time


def read_tokens(file: Path | None, environment: str) -> Tokens:
    """Those of the file, one a line (# begins a comment), and of the environment variable's text."""
    texts = environment.split()
    if file is None:
        return Tokens.of(texts, TOKENS)
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ServeError(f"{file} holds no token: write one a line, as `openssl rand -hex 32` gives")
    return Tokens.of(found, str(file)) if not texts else Tokens.of([*found, *texts], f"{file} and {TOKENS}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Settings:
    """Limits and places."""

    spool: Path
    """A folder of ours alone: uploads, and whatever workers write down."""
    root: Path | None = None
    """Files below it may be asked for by their path; None: no file may."""
    tokens: Tokens = Tokens()
    workers: int = 1
    max_bytes: int = 500_000_000
    """Of an upload."""
    max_duration_s: float = 3600.0
    """Of a clip."""
    time_limit_s: float = 900.0
    """Of the work on a clip; then its worker is killed."""
    queue: int = 16
    """So many jobs wait at most, uploads on their way among them."""
    keep_s: float = 3600.0
    """So long a result is kept."""


def check_host(host: str, tokens: Tokens) -> None:
    """Raises ServeError where others could reach a service that asks for no token."""
    if not tokens and not is_loopback(host):
        raise ServeError(
            f"--host {host} lets others ask, and there is no token: give --tokens FILE or {TOKENS}, or leave the host "
            "at 127.0.0.1, which only this machine can reach"
        )
