"""What the decoder says of a file, checked: it may have been taken over by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pipeline.media.process import MAX_PIXELS, nonsense

_Name = Annotated[str, Field(max_length=1000)]
_Count = Annotated[int, Field(ge=0, le=2**31)]
"""No number in a container's header is larger."""


@dataclass(frozen=True)
class AudioInfo:
    """The first sound track, as the headers describe it."""

    codec: _Name
    sample_rate_hz: _Count
    channels: _Name
    """The layout's name: mono, stereo, 5.1, "8 channels"."""


class ToldOfSound(BaseModel):
    """What is said of a sound track."""

    model_config = ConfigDict(frozen=True)
    audio: AudioInfo | None
    start_s: FiniteFloat | None = None


class Told(ToldOfSound):
    """What is said of a clip; see `Probe`."""

    container: _Name
    codec: _Name
    width_px: _Count
    height_px: _Count
    n_audio: _Count
    tick_s: Annotated[float, Field(gt=0, le=2**31)]
    pixel_aspect: FiniteFloat
    transfer: _Name | None
    bit_depth: _Count | None
    interlaced: bool | None
    matrix: Annotated[tuple[int, ...], Field(max_length=9)]

    @model_validator(mode="after")
    def _has_a_size(self) -> Told:
        if not 0 < self.width_px * self.height_px <= MAX_PIXELS:
            raise ValueError("no size of a picture")
        return self


_Model = TypeVar("_Model", bound=BaseModel)


def check_told(header: Mapping[str, Any], kind: type[_Model]) -> _Model:
    """The decoder's header; raises MediaError where it cannot be one."""
    try:
        return kind.model_validate(header)
    except ValidationError as error:
        raise nonsense() from error
