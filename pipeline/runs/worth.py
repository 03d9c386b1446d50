"""What must be said of a detector before its figures, on every page, card and screen alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cache_schemas.run import RetrainRun, read_run
from pipeline.params import Params
from pipeline.runs.kept import kept_evidence
from pipeline.statistics.strength import in_words, signed
from pipeline.workspace import Workspace


def said_first(layout: str, limits: Sequence[float] | None) -> Iterator[str]:
    """Yields sentences; nothing for most detectors.

    layout: of the clips that it learnt from; limits: the lowest and highest log10 LR that it may claim, of picture and
    sound; None where it is not calibrated.
    """
    if layout == "synth":
        yield "It learnt from clips that this program drew: what it says of real ones is evidence of nothing."
    if limits and len(set(map(in_words, limits))) == 1:  # of both sides: neither
        low, high = limits
        yield (
            "It can support neither side, whatever it sees: the clips that it was calibrated on bear no more than a "
            f"log10 LR of {signed(low)} to {signed(high)}. It needs more people to learn from."
        )


def kept_first(workspace: Workspace) -> list[str]:
    """The same of the detector in a workspace; raises RunFileError where it was not trained and evaluated."""
    run, (evidence, _) = read_run(workspace.retrain / "retrain.json", RetrainRun), kept_evidence(workspace)
    of = evidence.systems.get("fusion")
    limits = (of.low, of.high) if of else None
    return list(said_first(Params.model_validate(run.params).data.layout, limits))


def warnings(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any number of it; metrics: of metrics.json."""
    found = [metrics["small_set_reason"], metrics["shortcuts"]["warning"]]
    audit = (entry["says"] for entry in metrics.get("audit") or [] if entry["found"])
    return [*filter(None, found), *(f"{says[:1].upper()}{says[1:]}." for says in audit)]
