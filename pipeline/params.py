"""params.yaml, read and validated in one place. Every stage takes its part of `Params`."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

import nas


class ParamsError(ValueError):
    """params.yaml is wrong; the message names the file, the key, the value and what is allowed."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    ALIKE: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}
    """{parameter: {value: the value that computes the same and stands for it in names}}.

    None stands for nothing at all: so that a new parameter renames nothing, it is {the value under which everything
    is as it was before: None}, whatever its default is.
    """

    def naming(self) -> dict[str, Any]:
        """The part of these parameters in the names of what is computed with them, plain JSON."""
        return self.naming_of(self.model_dump(mode="json"))

    @classmethod
    def naming_of(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same of values as an older version may have written them down."""
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        alike = {name: same.get(given[name], values[name]) for name, same in cls.ALIKE.items() if name in values}
        return {name: value for name, value in {**values, **alike}.items() if name not in alike or value is not None}


class DataParams(_Section):
    """Where the clips are and how their labels are written down."""

    root: str = Field("data/synth", description="folder of the clips; no clip outside it is read")
    layout: Literal["synth", "csv", "folders", "fakeavceleb", "swan-df", "lav-df", "av-deepfake1m", "dfdc"] = Field(
        "synth", description="how labels are stored there"
    )


class SynthParams(_Section):
    """The built-in data set."""

    identities: int = Field(16, ge=6, description="drawn people; they come in pairs that swap faces and voices")
    clips_per_identity: int = Field(8, ge=4, description="clips of each person, the four categories in turn")
    difficulty: float = Field(0.3, ge=0, le=1, description="0: crude fakes, 1: hardly a trace")


class SplitParams(_Section):
    """How clips are split."""

    kind: Literal["subject", "people", "official"] = Field(
        "subject",
        description="nobody (subject, source, target) in two splits, who shares clips in the same; or the people of "
        "every group dealt out and clips with people of two splits left out; or the data set's own, leaks reported",
    )
    val: float = Field(0.2, gt=0, lt=1, description="fraction of the clips (kind people: of the people) for validation")
    test: float = Field(0.2, gt=0, lt=1, description="the same for the test")

    @model_validator(mode="after")
    def _leave_train(self) -> SplitParams:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        return self


class WindowParams(_Section):
    """How clips are cut, picture and sound alike."""

    # Which clips are left out, not what a window holds.
    ALIKE: ClassVar = {"missing_modality": {"visual_only": "quarantine"}}

    window_s: float = Field(4.0, gt=0, le=60, description="length of a window, seconds")
    max_per_clip: int = Field(
        8, ge=1, description="at most so many windows a clip, spread evenly: of a longer one not all is used"
    )
    short_clip: Literal["wrap", "repeat_last", "quarantine"] = Field(
        "wrap", description="a clip shorter than a window: play it again, hold its end, or leave it out"
    )
    trim_silence: bool = Field(True, description="start the first window where the sound starts")
    silence_db: float = Field(30.0, gt=0, description="silent: so many dB below the clip's loudest 10 ms")
    missing_modality: Literal["quarantine", "visual_only"] = Field(
        "quarantine", description="a clip without (audible) sound: leave it out, or keep it with silent audio"
    )


class SpectrogramParams(_Section):
    """Sound -> spectrogram."""

    kind: Literal["log_mel", "linear"] = Field("log_mel", description="mel bands, or the paper's linear STFT")
    sample_rate_hz: int = Field(16000, ge=8000, le=48000, description="sound is resampled to this")
    stft_window_s: float = Field(0.025, gt=0, description="Hann window, seconds")
    hop_s: float = Field(0.010, gt=0, description="hop, seconds")
    n_fft: int = Field(512, ge=64, description="points of the Fourier transform")
    n_mels: int = Field(80, ge=8, le=256, description="bands of log_mel")

    @model_validator(mode="after")
    def _window_fits(self) -> SpectrogramParams:
        if round(self.stft_window_s * self.sample_rate_hz) > self.n_fft:
            raise ValueError(
                f"stft_window_s {self.stft_window_s:g} is {round(self.stft_window_s * self.sample_rate_hz)} samples "
                f"at {self.sample_rate_hz} Hz, more than n_fft {self.n_fft}: shorten it or raise n_fft"
            )
        return self


class FaceParams(_Section):
    """Picture -> one face track per clip -> crops."""

    ALIKE: ClassVar = {"codec": {"webp": "zstd"}}  # both lossless

    frames: int = Field(8, ge=1, le=128, description="frames per window, evenly spaced")
    size_px: int = Field(224, ge=32, le=1024, description="side of the square crop")
    margin: float = Field(0.3, ge=0, le=2, description="added to the face box, as a fraction of its side")
    min_face_px: int = Field(
        30,
        ge=12,
        description="smallest face that MTCNN looks for; in pictures whose shorter side is beyond 18 times it, an 18th "
        "of that side. Of a crowd the 32 largest faces are looked at",
    )
    min_probability: float = Field(0.9, ge=0, le=1, description="a face must be this certain once to be followed")
    min_presence: float = Field(0.5, ge=0, le=1, description="a window needs the face in so many of its frames")
    search: Literal["follow", "every"] = Field(
        "follow",
        description="search key frames and follow the faces between them, or search every frame that is cut, in full "
        "resolution, exactly as facenet-pytorch does",
    )
    align: Literal["none", "similarity"] = Field(
        "similarity", description="cut the square about the box, or turn, size and place it by the five landmarks"
    )
    codec: Literal["zstd", "webp", "jpeg"] = Field(
        "zstd", description="of stored crops: lossless and fast, lossless and a tenth smaller, or lossy (quality 95)"
    )


Weights = Annotated[str, Field(pattern=r"^(bundled|hub|file:.+|seed:\d+)$")]


def transformers_folder(name: str) -> PurePath | None:
    """The folder of `transformers:PATH`, which begins with a dot or a slash; None of the hub's names and all others."""
    family, _, rest = name.partition(":")
    return PurePath(rest) if family == "transformers" and rest.startswith((".", "/")) else None


def layer_prefix(name: str) -> str:
    """What stands before the stage in the names of a backbone's layers; of a file or folder not where it lies."""
    folder = transformers_folder(name)
    if folder is not None:
        name = f"transformers:{folder.name}"
    elif name.startswith("transformers:"):
        name = name.partition("@")[0]  # a revision
    elif name.startswith("onnx:"):
        name = f"onnx:{PurePath(name.partition(':')[2].partition('#')[0]).stem}"
    return name.replace("/", "_").replace(":", "_")


class NetworkParams(_Section):
    """A network and where its weights come from."""

    name: str = Field(
        "tf_efficientnet_lite0",
        description="a timm name, distillmos, smart-turn, torchvision:NAME, facenet:InceptionResnetV1, "
        "torchaudio:BUNDLE, transformers:OWNER/MODEL, inflated:resnet50, onnx:PATH#tap,tap or your own "
        "module:attribute; `bmnas backbones` lists them",
    )
    weights: Weights = Field(
        "bundled", description="bundled | hub | file:PATH (safetensors, or .pth without code in it) | seed:N (random)"
    )


Pooling = Literal["max", "mean", "deviation", "token"]


class BackboneParams(NetworkParams):
    """A frozen network."""

    ALIKE: ClassVar = {"pool": {("max",): None}}

    layers: int | tuple[int, ...] = Field(4, description="the last so many stages, or the stages' numbers")
    pool: tuple[Pooling, ...] = Field(
        ("mean", "deviation"),
        min_length=1,
        description="what is kept of each layer over space and each of the L parts of time: max, mean, deviation; "
        "several lie behind one another along the channels, in this order; the published networks have max alone. "
        "token: a vision transformer's class token, which no other kind looks at",
    )
    precision: Literal["full", "half"] = Field("full", description="float32, or float16 (for GPUs: slow on most CPUs)")
    runtime: Literal["torch", "onnxruntime"] = Field(
        "torch", description="what computes pictures on the CPU; onnxruntime is an extra to install"
    )

    @field_validator("pool")
    @classmethod
    def _in_order(cls, given: tuple[Pooling, ...]) -> tuple[Pooling, ...]:
        return tuple(kind for kind in typing.get_args(Pooling) if kind in given)

    @model_validator(mode="after")
    def _runtime_has_the_precision(self) -> BackboneParams:
        if self.runtime == "onnxruntime" and self.precision == "half":
            raise ValueError("precision: half needs runtime: torch")
        return self


Backbones = Annotated[tuple[BackboneParams, ...], Field(min_length=1)]


class FeatureParams(_Section):
    """Frozen backbones -> the feature cache."""

    ALIKE: ClassVar = {"pseudo": {0: None}}

    visual: Backbones = Field((BackboneParams(),), description="a list of backbones over face crops, side by side")
    audio: Backbones = Field(
        (BackboneParams(),), description="a list of backbones over spectrograms or waveforms, side by side"
    )
    length: int = Field(8, ge=1, description="positions along time, L")
    views: int = Field(
        1, ge=1, le=64, description="variants of every window to train on, V; the first is the window itself"
    )
    pseudo: int = Field(
        2,
        ge=0,
        le=8,
        description="pseudo-fakes of every window of a real clip, to learn from: its picture, smoothed sound",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="of the cached features")
    random_control: bool = Field(
        True,
        description="the same windows by the same backbones with random weights, too: a control beside every result, "
        "for twice the passes",
    )

    @field_validator("visual", "audio")
    @classmethod
    def _tell_apart(cls, backbones: tuple[BackboneParams, ...]) -> tuple[BackboneParams, ...]:
        prefixes = [layer_prefix(backbone.name) for backbone in backbones]
        twice = next((prefix for prefix in prefixes if prefixes.count(prefix) > 1), None)
        if twice is not None:
            raise ValueError(f"two backbones would name their layers {twice}.STAGE: give each another name")
        return backbones

    @classmethod
    def naming_of(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """As that of every section; each backbone's parameters by their own rule."""
        lists = {name: values[name] for name in ("visual", "audio") if name in values}
        return super().naming_of(values) | {
            name: [BackboneParams.naming_of(backbone) for backbone in backbones] for name, backbones in lists.items()
        }


class PretrainParams(_Section):
    """Optional: train backbones on one modality each, before they are frozen."""

    visual: NetworkParams | None = Field(
        None, description="timm network to train on crops and video labels: its name and first weights"
    )
    audio: NetworkParams | None = Field(None, description="the same on spectrograms and audio labels")
    epochs: int = Field(10, ge=1, description="passes over the train split; the one of the best AUC on val is kept")
    batch_size: int = Field(8, ge=2, description="windows per step")
    learning_rate: float = Field(1e-4, gt=0, description="of Adam, falling to 0 along a cosine")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty")


class ComputeParams(_Section):
    """How to compute; never what. No stage depends on it."""

    workers: int = Field(
        0, ge=0, description="worker processes on this machine; 0: one per core, 1: none, all in this process"
    )
    scheduler: str = Field("", description="address of a running Dask scheduler; empty: start workers here")
    store: str = Field(
        "",
        description="where files wait for a cluster's workers that do not see this machine's folders, "
        "s3://BUCKET/FOLDER or file:///FOLDER; empty: they do",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")


class Params(_Section):
    """The whole of params.yaml."""

    seed: int = Field(0, ge=0, description="of the built-in data set, the split and the bootstrap")
    max_failed_fraction: float = Field(0.5, ge=0, le=1, description="a stage fails when more clips than this do")
    data: DataParams = DataParams()
    synth: SynthParams = SynthParams()
    split: SplitParams = SplitParams()
    windows: WindowParams = WindowParams()
    spectrograms: SpectrogramParams = SpectrogramParams()
    faces: FaceParams = FaceParams()
    pretrain: PretrainParams = PretrainParams()
    features: FeatureParams = FeatureParams()
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="one search and one training each")
    search: nas.SearchConfig = nas.SearchConfig()
    retrain: nas.RetrainConfig = nas.RetrainConfig()
    compute: ComputeParams = ComputeParams()

    def of_features(self) -> dict[str, Any]:
        """The sections that decide what a window's features are, plain JSON; whether there is a control does not.

        Without pseudo-fakes they say nothing of them: indexes keep the names that they had before there were any.
        """
        sections = {"windows", "spectrograms", "faces", "features"}
        silent = {"random_control"} if self.features.pseudo else {"random_control", "pseudo"}
        return self.model_dump(mode="json", include=sections, exclude={"features": silent})


def load_params(path: Path) -> Params:
    """The parameters in `path`; raises ParamsError naming each unknown or ill-typed key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist: run in the project's folder or give --params") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from None
    return parse_params({} if content is None else content, source=str(path))


def parse_params(content: object, *, source: str) -> Params:
    """The parameters that `content` says; raises ParamsError with `source` in its text."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(source, problem) for problem in error.errors())) from None


def _explain(source: str, problem: ErrorDetails) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key}: remove it or correct its spelling (docs/params.md lists every key)"
    return f"{source}: {key} = {problem['input']!r}: {problem['msg']}"


def params_schema() -> dict[str, Any]:
    """The JSON Schema of params.yaml, with every key's meaning and default, for editors to check and complete by."""
    schema = Params.model_json_schema() | {"title": "params.yaml of bmnas"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def params_table() -> str:
    """docs/params.md: every key with its default and its meaning, as a table in Markdown."""
    intro = """# Parameters

All of them are in `params.yaml`; what is not given there has the default given here. An unknown key or a wrong value is
an error that names it. Editors with a YAML language server check and complete while you type: the first line of
`params.yaml` names `docs/params.schema.json`.

`bmnas params table` prints this page, `bmnas params schema` the JSON Schema.

"""
    return intro + "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *_rows(Params, "")]) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _rows(annotation, f"{prefix}{name}.")
            continue
        inner = [part for part in typing.get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if typing.get_origin(annotation) is tuple and inner:
            yield f"| `{prefix}{name}` | one | {field.description} |"
            yield from _rows(inner[0], f"{prefix}{name}[].")
            continue
        default = field.get_default(call_default_factory=True)
        text = yaml.safe_dump(list(default) if isinstance(default, tuple) else default, default_flow_style=True)
        text = text.removesuffix("\n").removesuffix("\n...")
        allowed = typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()
        choices = f" ({', '.join(allowed)})" if allowed else ""
        meaning = f"{field.description}{choices}".replace("|", "\\|")
        yield f"| `{prefix}{name}` | {text} | {meaning} |"
