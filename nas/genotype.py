"""The genotype: the discrete architecture that a search ends with, as JSON."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nas.names import OPERATIONS


def cell_name(index: int) -> str:
    """Return the name of a cell as predecessor of later cells: "cell1" for index 0."""
    return f"cell{index + 1}"


def step_name(index: int) -> str:
    """Return the name of a step as predecessor of later steps: "step1" for index 0."""
    return f"step{index + 1}"


def is_layer(name: str) -> bool:
    """Return whether a name is that of a layer: "visual/NAME" or "audio/NAME"."""
    modality, slash, layer = str(name).partition("/")
    return modality in ("visual", "audio") and slash == "/" and layer != ""


class Reader(BaseModel):
    """What reads two different inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: str
    y: str

    def check(self, here: str, allowed: Sequence[str], *, layers: bool = False) -> None:
        """Raise a ValueError that says where unless both inputs are among those allowed, or layers where these are."""
        for slot, value in (("x", self.x), ("y", self.y)):
            if value not in allowed and not (layers and is_layer(value)):
                names = ", ".join([*(("visual/NAME", "audio/NAME") if layers else ()), *allowed])
                raise ValueError(f"{here}.{slot} is {value!r}; allowed: {names}")
        if self.x == self.y:
            raise ValueError(f"{here} reads {self.x!r} twice; its x and y must differ")


class Step(Reader):
    """One step: its two inputs ("x", "y" of the cell or an earlier "stepN") and its operation."""

    operation: str

    @field_validator("operation")
    @classmethod
    def _known(cls, operation: str) -> str:
        if operation not in OPERATIONS:
            raise ValueError(f"operation {operation!r} is unknown; allowed: {', '.join(OPERATIONS)}")
        return operation


class Cell(Reader):
    """One cell: its two inputs (layers or an earlier "cellN") and its steps; x is also the residual."""

    steps: tuple[Step, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _steps_read_backwards(self) -> Self:
        for index, step in enumerate(self.steps):
            step.check(f"steps[{index}]", step_inputs(index))
        return self


class Genotype(BaseModel):
    """A discrete architecture: cells of two different inputs, no two cells with the same pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    cells: tuple[Cell, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _cells_read_backwards(self) -> Self:
        pairs: set[frozenset[str]] = set()
        for index, cell in enumerate(self.cells):
            cell.check(f"cells[{index}]", [cell_name(i) for i in range(index)], layers=True)
            if (pair := frozenset((cell.x, cell.y))) in pairs:
                raise ValueError(f"cells[{index}] reads {cell.x!r} and {cell.y!r} as an earlier cell does")
            pairs.add(pair)
        return self

    def layers(self) -> list[str]:
        """Return the names of the layers that the architecture reads, in the order of first use."""
        inputs = (name for cell in self.cells for name in (cell.x, cell.y))
        return list(dict.fromkeys(name for name in inputs if is_layer(name)))

    def to_json(self) -> str:
        """Return the genotype as JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the genotype that a JSON text describes; ValueError says what is wrong with it."""
        return cls.model_validate_json(text)


def notation(genotype: Genotype) -> str:
    """Return the genotype in one line, as "visual/a + audio/b: Sum(x, y), ConcatFC(x, step1)"; cells end with ";"."""
    return "; ".join(
        f"{cell.x} + {cell.y}: " + ", ".join(f"{step.operation}({step.x}, {step.y})" for step in cell.steps)
        for cell in genotype.cells
    )


def step_inputs(index: int) -> tuple[str, ...]:
    """Return what the step of the given index may read."""
    return ("x", "y", *(step_name(i) for i in range(index)))
