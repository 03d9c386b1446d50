"""What goes wrong with runs: those that fail, without their companions, and choices that collapse to one kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, TypeVar

from torch import Tensor

from nas.space import Space

Row = dict[str, Any]
Value = TypeVar("Value")

# A gradient below this is rounding, not signal: a working estimator's is above 1e-6 (it shrinks as 1 / lambda),
# the reference code's was 1e-16.
VANISHED = 1e-10
ONE_SIDED = 0.95
PLAIN = 0.9
FEW_EDGES = 0.5


class RunError(RuntimeError):
    """A run failed in an epoch, counted as in its curves.

    It is raised where every run of a call failed, with `results`, what there is of each; and by a failed run's result
    where it is asked for what it does not have.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        super().__init__(seed, epoch)  # as given: a worker process pickles it
        self.seed, self.epoch = seed, epoch
        self.results: list[Any] = []


class Diverged(RunError):  # noqa: N818 - it names the event
    """The losses or scores of a run are no longer finite."""

    def __str__(self) -> str:
        return (
            f"seed {self.seed} diverged in epoch {self.epoch}: its losses, gradients or scores are not finite. Lower "
            "the learning rate (weight_lr; in a search also arch_lr), and check that no feature is larger than a few "
            "thousand"
        )


class VanishingArchitectureGradient(RunError):  # noqa: N818 - it names the event
    """The architecture parameters receive no gradient: they would end where they were initialised."""

    def __init__(self, seed: int, epoch: int, norm: float) -> None:
        super().__init__(seed, epoch)
        self.args, self.norm = (seed, epoch, norm), norm

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: the mean norm of the architecture gradient in epoch {self.epoch} is {self.norm:.3g}, "
            f"below {VANISHED:g}; the search would be random. Check that features vary between windows, and lower the "
            "temperature"
        )


@dataclass(frozen=True)
class RunResult:
    """What the results of all runs have in common.

    curves: one dict per epoch; of a failed run up to the epoch that failed, with None for what is not finite. error:
    why the run failed; None when it is well. A failed run's result raises it when asked for what it does not have.
    """

    seed: int
    curves: list[Row]
    error: RunError | None

    @property
    def failed(self) -> str:
        """Why the run failed, in words; "" when it is well."""
        return "" if self.error is None else str(self.error)

    def _well(self, value: Value | None) -> Value:
        if self.error is not None:
            raise self.error
        assert value is not None  # noqa: S101 - of a run that is well
        return value


Result = TypeVar("Result", bound=RunResult)


def checked(results: list[Result]) -> list[Result]:
    """Return the results; where every run failed, raise the first one's error, which holds them, with the others'."""
    errors = [result.error for result in results if result.error is not None]
    if len(errors) < len(results):
        return results
    for other in errors[1:]:
        errors[0].add_note(str(other))
    errors[0].results = results
    raise errors[0]


def curve_rows(epoch: int, columns: Mapping[str, Tensor]) -> list[Row]:
    """Return one row per run of columns (R,); None for what is not finite."""
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {"epoch": epoch} | {name: column[r] if isfinite(column[r]) else None for name, column in values.items()}
        for r in range(len(next(iter(values.values()))))
    ]


def failure(row: Row, seed: int, *, vanishes: bool = False) -> RunError | None:
    """Return why a run fails that has this row in its curve; None when it is well.

    vanishes: whether an architecture gradient of nothing is a failure.
    """
    if None in row.values():
        return Diverged(seed, row["epoch"])
    if vanishes and row["arch_grad_norm"] < VANISHED:
        return VanishingArchitectureGradient(seed, row["epoch"], row["arch_grad_norm"])
    return None


def collapse_warnings(curve: Sequence[Row], seed: int, space: Space) -> list[str]:
    """Return what is one-sided at the end of a run's curve: the run's seed, the share, and since which epoch."""
    both = len({name.partition("/")[0] for name in space.layers}) == 2
    several = len(space.operations) > 1
    checks = [
        (both, "visual", False, ONE_SIDED, "of what the cells read is visual"),
        (both, "visual", True, ONE_SIDED, "of what the cells read is audio"),
        (several, "sum", False, PLAIN, "of the operations are Sum, the one without weights"),
        (True, "edges", False, ONE_SIDED, "of the edges are kept: nothing is chosen"),
        (
            True,
            "edges",
            True,
            1 - FEW_EDGES / len(space.layers),
            "of the edges are none: the cells read next to nothing",
        ),
    ]
    found = []
    for asked, name, others, most, text in checks:
        shares = [nan if row.get(f"share_{name}") is None else row[f"share_{name}"] for row in curve]
        shares = [1 - share for share in shares] if others else shares
        since = max((i + 1 for i, share in enumerate(shares) if not share > most), default=0)
        if asked and since < len(curve):
            found.append(f"seed {seed}: {shares[-1]:.0%} {text} (since epoch {curve[since]['epoch'] + 1})")
    return found
