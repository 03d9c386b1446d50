"""What a file says of where it comes from: its C2PA manifest, where `c2pa-python` is installed to read it."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.media.files import MediaError, PassingError
from pipeline.media.process import reading
from pipeline.media.told import check_told

_Text = Annotated[str, Field(max_length=200), AfterValidator(lambda text: text.replace("\n", " "))]
_Texts = Annotated[tuple[_Text, ...], Field(max_length=20)]
UNTRUSTED = "signingCredential.untrusted"
"""Of every signer: no list of those to be trusted is consulted."""


class Manifest(BaseModel):
    """What a manifest says; whoever signed may have written anything."""

    model_config = ConfigDict(frozen=True)
    state: Literal["valid", "trusted", "invalid", "unreadable"]
    """Valid: the file and what is said of it are as they were signed, by whomever."""
    generator: _Text = ""
    """The program that made the manifest"""
    signer: _Text = ""
    issuer: _Text = ""
    signed_at: _Text = ""
    actions: _Texts = ()
    """What was done to it: "c2pa.created (trainedAlgorithmicMedia)" """
    problems: _Texts = ()
    """C2PA's codes of what does not hold"""

    @property
    def says(self) -> str:
        """The same in a sentence."""
        problems = "; ".join(self.problems)
        if self.state == "unreadable":
            return f"whether it has a manifest cannot be told: {problems}"
        by = f"{self.signer or 'nobody named'} ({self.issuer or 'no issuer named'})"
        held = "as it was signed; whether the signer is who it says was not checked"
        if self.state == "invalid":
            held = f"no longer what was signed, or signed wrongly: {problems or 'no reason given'}"
        told = f"; it tells: {', '.join(self.actions)}" if self.actions else ""
        return f"signed by {by} with {self.generator or 'a program that is not named'}, {held}{told}"


class _Told(BaseModel):
    manifest: Manifest | None


def read_manifest(path: Path) -> Manifest | None:
    """The file's; None where it has none, or nobody here can read one. Raises MediaError where that cannot be told."""
    if not _installed():
        return None
    with reading("read_manifest", path, [], {}) as process:
        header, _ = process.result()
    found = check_told(header, _Told).manifest
    if found is None:
        return None
    return found.model_copy(update={"problems": tuple(each for each in found.problems if each != UNTRUSTED)})


def provenance(path: Path) -> Manifest | None:
    """The same, with a manifest that stops its reader as one that is unreadable; raises PassingError."""
    try:
        return read_manifest(path)
    except PassingError:
        raise
    except MediaError as error:
        return Manifest(state="unreadable", problems=(str(error)[:200],))


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("c2pa") is not None
