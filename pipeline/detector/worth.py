"""What must be said of a detector before its figures."""

from __future__ import annotations

from collections.abc import Iterator

from cache_schemas.evidence import Evidence
from pipeline.params import Params
from pipeline.statistics.strength import in_words, signed


def said_first(params: Params, evidence: Evidence) -> Iterator[str]:
    """Yields sentences; nothing for most detectors."""
    if params.data.layout == "synth":
        yield "It learnt from clips that this program drew: what it says of real ones is evidence of nothing."
    of = evidence.systems.get("fusion")
    if of and in_words(of.low) == in_words(of.high):  # of both sides: neither
        yield (
            f"It can support neither side, whatever it sees: {of.n_real} real and {of.n_fake} fake validation clips "
            f"bear no more than a log10 LR of {signed(of.low)} to {signed(of.high)}. It needs more people to learn "
            "from."
        )
