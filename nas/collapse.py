"""Warnings about searches whose choices fall on one kind of option."""

from collections.abc import Callable, Sequence
from typing import Any

from nas.genotype import is_layer
from nas.space import Candidates

Row = dict[str, Any]

ONE_SIDED = 0.95
PLAIN = 0.9
FEW_EDGES = 0.5


def collapse_warnings(curve: Sequence[Row], seed: int, candidates: Candidates) -> list[str]:
    """Return what is one-sided at the end of a run's curve: the run's seed, the share, and since which epoch."""
    cell = candidates.cells[0].inputs
    modalities = {name.partition("/")[0] for name in cell if is_layer(name)}
    found = []

    def check(column: str, bad: Callable[[float], bool], text: str, value: Callable[[float], float]) -> None:
        epochs = 0
        for row in reversed(curve):
            if row.get(column) is None or not bad(row[column]):
                break
            epochs += 1
        if epochs:
            since = curve[-epochs]["epoch"] + 1
            found.append(f"seed {seed}: {text.format(value(curve[-1][column]))} (since epoch {since})")

    if len(modalities) == 2:
        check("share_visual", lambda s: s > ONE_SIDED, "{:.0%} of what the cells read is visual", lambda s: s)
        check("share_visual", lambda s: s < 1 - ONE_SIDED, "{:.0%} of what the cells read is audio", lambda s: 1 - s)
    check("share_sum", lambda s: s > PLAIN, "{:.0%} of the operations are Sum, the one without weights", lambda s: s)
    check("share_edges", lambda s: s > ONE_SIDED, "{:.0%} of the edges are kept: nothing is chosen", lambda s: s)
    check(
        "share_edges",
        lambda s: s * len(cell) < FEW_EDGES,
        "{:.0%} of the edges are none: the cells read next to nothing",
        lambda s: 1 - s,
    )
    return found
