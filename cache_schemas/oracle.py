"""What `bmnas oracle` leaves behind: the truth about a space, and what search methods found of it.

work/oracle/oracle.json        OracleTable; its JSON schema: OracleTable.model_json_schema()
work/oracle/oracle.csv         the same, one row an architecture, the best first
work/oracle/certificates.csv   one row a pick (fields of Pick)
work/oracle/methods.csv        one row a method (fields of Certificate)
work/oracle/oracle.svg         the figure
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from cache_schemas.run import Failure, read_run

RANDOM, FIXED, EXHAUSTIVE = "random search", "best fixed fusion", "best of all on val"
"""Methods without a search. The last one trains every architecture and takes the best val AUC: it prints how far *any*
choice on this val split can be trusted."""


class _Record(BaseModel, extra="forbid", frozen=True):
    """Part of the table."""


class OracleEntry(_Record):
    """One architecture; deviations are over the seeds, None where there is one seed. rank 1: the best test AUC."""

    rank: int
    architecture: str
    genotype: dict[str, Any]
    parameters: int
    val_auc: float
    val_auc_std: float | None
    test_auc: float
    test_auc_std: float | None
    test_aucs: list[float]
    val_aucs: list[float]


class Pick(_Record):
    """What one run of a method chose; rank among the table's architectures, regret: best test AUC less its own."""

    method: str
    space: str
    seed: int
    architecture: str
    rank: int
    rank_share: float
    test_auc: float
    regret: float
    kendall_tau: float | None
    """of the val AUC that the method went by (shared weights'; EXHAUSTIVE: that training seed's) against the true test
    AUC; None where it went by no more than a few"""


class Certificate(_Record):
    """A method's picks over its seeds. in_best_5_percent: share of the picks."""

    method: str
    space: str
    runs: int
    median_rank: float
    median_rank_share: float
    in_best_5_percent: float
    mean_regret: float
    regret_std: float | None
    kendall_tau: float | None
    kendall_tau_std: float | None
    cost_trainings: float
    """time of one run, in trainings of one architecture"""


class OracleTable(_Record):
    """The truth about a space. noise: deviation of an architecture's test AUC over seeds, pooled; None for one seed.

    luck: how much of the best's mean test AUC is luck; None for one seed (`pipeline.experiments.oracle.luck`).
    failed: trainings without a result; the architectures that they are of have no entry.
    """

    schema_version: Literal[1] = 1
    cache: str
    space: str
    layers: list[str]
    cells: int
    steps: int
    complete: bool
    seeds: list[int]
    retrain: dict[str, Any]
    noise: float | None
    luck: float | None = None
    entries: list[OracleEntry]
    failed: list[Failure] = []
    picks: list[Pick] = []
    certificates: list[Certificate] = []


def read_oracle(path: Path) -> OracleTable:
    """The table that `path` holds; raises RunFileError when it is missing or malformed."""
    return read_run(path, OracleTable)
