"""Settings of the search and of the final training; every field has a default that works."""

from collections.abc import Hashable, Sequence
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from nas.names import DEFAULT_OPERATIONS, OPERATIONS

EstimatorName = Literal["softmax", "gumbel", "st_gumbel", "gumbel_rao", "published"]
SpaceName = Literal["slots", "bmnas"]
Head = Literal["mean", "flatten"]
Precision = Literal["float32", "tf32"]
SomeConfig = TypeVar("SomeConfig", bound="NetworkConfig")


class NetworkConfig(BaseModel):
    """What the supernet of a search and the fixed network of a training have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channels: int = Field(default=128, ge=1, le=4096, description="C, channels of every layer after its reshape layer")
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0, description="share of activations set to 0 in training")
    head: Head = Field(
        default="mean",
        description="what the classifier reads of the cells: their mean over time, or (flatten, as published) every "
        "position for itself",
    )
    batch_size: int = Field(
        default=32, ge=2, description="windows per minibatch and run; at most a split's size is used"
    )
    class_weights: bool = Field(
        default=True, description="weight the loss of a class by the inverse of its share of the train split"
    )
    precision: Precision = Field(
        default="float32",
        description="what a GPU multiplies matrices in: tf32 is faster, and keeps ten bits of what it multiplies; the "
        "CPU always has float32",
    )
    device: str | None = Field(
        default=None, description="torch device to run on, as 'cpu' or 'cuda:0'; None: where the features lie"
    )


class SearchConfig(NetworkConfig):
    """The settings of `nas.search`.

    Where a default differs from the published one (C = 128, arch lr 3e-4, batch 16, lambda = 10), it is
    because ours finds a planted pair of layers more often or sooner: a published arch lr moves no choice within a
    few hundred steps, and lambda = 10 leaves the choices so mixed that operations are not judged where they end up.
    The search is narrower than the final training: it ranks architectures, it does not score windows.
    """

    channels: int = Field(default=64, ge=1, le=4096, description="C, channels of every layer after its reshape layer")

    space: SpaceName = Field(
        default="slots",
        description="slots: a categorical choice per input; bmnas: {none, skip} per edge, two edges kept",
    )
    estimator: EstimatorName = Field(
        default="st_gumbel",
        description="how architecture parameters become mixing weights and gradients; published does not search: it is "
        "the released code's loop, for comparison",
    )
    temperature: float = Field(default=3.0, gt=0.0, description="lambda of the Gumbel estimators; softmax ignores it")
    temperature_end: float | None = Field(
        default=None, gt=0.0, description="lambda at the end of the search, where a schedule changes it"
    )
    temperature_schedule: Literal["constant", "cosine", "exponential"] = Field(
        default="constant", description="how lambda goes from temperature to temperature_end once the choices train"
    )
    samples: int = Field(default=15, ge=1, le=1000, description="M, draws that are averaged; softmax ignores it")
    weight_mix: Literal["expected", "samples"] = Field(
        default="expected",
        description="what weight steps read: samples, as architecture steps do, or their expectation, softmax(theta)",
    )
    operations: tuple[str, ...] = Field(
        default=DEFAULT_OPERATIONS, min_length=1, description="the operations that a step may use"
    )
    modality: Literal["both", "visual", "audio"] = Field(
        default="both", description="layers to read: both, or one alone on purpose (the stage `search` does all three)"
    )
    cells: int = Field(default=2, ge=1, le=16, description="S, fusion cells")
    steps: int = Field(default=2, ge=1, le=16, description="T, steps of every cell")
    epochs: int = Field(default=30, ge=1, description="passes over the train split")
    warmup_epochs: int = Field(
        default=10,
        ge=0,
        description="epochs at the start that train only the weights, on samples of the initial choices",
    )
    min_steps_per_epoch: int = Field(
        default=10, ge=1, description="minibatches in an epoch where the train split has fewer"
    )
    weight_lr: float = Field(default=1e-3, gt=0.0, description="highest learning rate of the weights")
    weight_lr_min: float = Field(default=1e-6, ge=0.0, description="lowest learning rate of the weights")
    restart_epochs: int = Field(
        default=10, ge=1, description="epochs between warm restarts of the weights' cosine schedule"
    )
    weight_decay: float = Field(default=3e-4, ge=0.0, description="L2 penalty of the weights")
    arch_lr: float = Field(default=0.2, gt=0.0, description="learning rate of the architecture parameters")
    arch_beta: float = Field(
        default=0.9, ge=0.0, lt=1.0, description="decay of Adam's mean gradient of the architecture parameters"
    )
    arch_weight_decay: float = Field(default=1e-3, ge=0.0, description="L2 penalty of the architecture parameters")
    level: Literal["bilevel", "single"] = Field(
        default="bilevel", description="architecture steps on val, or (single) on the minibatch of the weight step"
    )
    entropy_weight: float = Field(
        default=0.0, description="times the mean entropy of the choices in the architecture loss; above 0 they settle"
    )
    cost_weight: float = Field(
        default=0.0,
        ge=0.0,
        description="times the cost of the sampled architecture, as a share of the whole supernet's",
    )
    cost: Literal["parameters", "macs"] = Field(default="parameters", description="what cost_weight counts")
    derive: Literal["argmax", "best_of"] = Field(
        default="best_of",
        description="the most probable genotype, or the best on val, with the shared weights, of it, drawn ones and "
        "their neighbours",
    )
    candidates: int = Field(
        default=128,
        ge=2,
        le=10_000,
        description="genotypes that best_of compares: half are drawn, the others differ from the best in one choice",
    )
    members: int = Field(
        default=1, ge=1, le=64, description="genotypes that a search gives, the best of those that best_of compares"
    )
    rungs: tuple[PositiveInt, ...] = Field(
        default=(),
        max_length=6,
        description="epochs that the best genotypes are really trained, rung after rung; after each one half of them "
        "go on, until members are left; empty: shared weights alone choose",
    )

    @field_validator("operations")
    @classmethod
    def _known(cls, operations: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in operations if name not in OPERATIONS]
        if unknown or len(set(operations)) < len(operations):
            raise ValueError(f"operations is {list(operations)}; allowed: {', '.join(OPERATIONS)}, each once")
        return operations

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} and epochs {self.epochs}; allowed: fewer epochs of warm-up "
                "than epochs, or nothing is searched"
            )
        if (self.temperature_end is None) != (self.temperature_schedule == "constant"):
            raise ValueError(
                f"temperature_schedule is {self.temperature_schedule!r} and temperature_end {self.temperature_end}; "
                "allowed: constant without an end, cosine or exponential with one"
            )
        most = self.candidates if self.derive == "best_of" else 1
        if self.members > most:
            raise ValueError(f"members is {self.members}; allowed: 1 to {most}, which derive: {self.derive} compares")
        return self

    @property
    def begun(self) -> int:
        """Genotypes that begin the first rung: twice as many as the next one, and so on."""
        return self.members << len(self.rungs)


PER_RUN = frozenset(
    {
        "estimator",
        "temperature",
        "temperature_end",
        "temperature_schedule",
        "samples",
        "weight_mix",
        "weight_lr",
        "weight_lr_min",
        "weight_decay",
        "arch_lr",
        "arch_beta",
        "arch_weight_decay",
        "entropy_weight",
        "cost_weight",
    }
)
"""Settings that may differ between the runs of one batch; all others shape the work that the runs share."""


def batch_key(config: SearchConfig) -> Hashable:
    """Return a key that is equal for the configs whose runs can share one batch."""
    return tuple(sorted((name, value) for name, value in config if name not in PER_RUN))


def check_config(name: str, config: object, kind: type[SomeConfig]) -> SomeConfig:
    """Return the config; ValueError unless it is of the kind, and its fields fit each other."""
    if not isinstance(config, kind):
        given = f"a nas.{kind.__name__}, as nas.{kind.__name__}(**settings)"
        raise ValueError(f"{name} is a {type(config).__name__}; allowed: {given}")
    return kind.model_validate(dict(config))  # again: model_copy checks nothing


def check_configs(configs: SearchConfig | Sequence[SearchConfig], runs: int) -> list[SearchConfig]:
    """Return one config per run; ValueError names the setting in which they may not differ."""
    if isinstance(configs, list | tuple):
        given = [check_config(f"configs[{i}]", config, SearchConfig) for i, config in enumerate(configs)]
    else:
        given = [check_config("configs", configs, SearchConfig)] * runs
    if len(given) != runs:
        raise ValueError(f"configs has {len(given)} entries for {runs} seeds; allowed: one config, or one per seed")
    for name, value in given[0]:
        values = [getattr(config, name) for config in given]
        if name not in PER_RUN and any(other != value for other in values):
            listed = ", ".join(dict.fromkeys(str(other) for other in values))
            raise ValueError(
                f"configs differ in {name}: {listed}; the runs of one call share it (only {', '.join(sorted(PER_RUN))} "
                "may differ): search in one call per nas.batch_key"
            )
    return given


class RetrainConfig(NetworkConfig):
    """The settings of `nas.retrain`.

    C = 128, as published, and 60 epochs cost nearly nine times as much, and gain nothing on clips of other sources.
    """

    channels: int = Field(default=32, ge=1, le=4096, description="C, channels of every layer after its reshape layer")

    epochs: int = Field(default=20, ge=1, description="most passes over the train split")
    min_steps_per_epoch: int = Field(
        default=10, ge=1, description="minibatches in an epoch where the train split has fewer"
    )
    patience: int = Field(
        default=20, ge=1, description="epochs without a better validation AUC after which a run stops"
    )
    weight_lr: float = Field(default=3e-3, gt=0.0, description="highest learning rate")
    weight_lr_min: float = Field(default=1e-6, ge=0.0, description="lowest learning rate")
    restart_epochs: int = Field(default=20, ge=1, description="epochs between warm restarts of the cosine schedule")
    weight_decay: float = Field(default=3e-4, ge=0.0, description="L2 penalty of the weights")
