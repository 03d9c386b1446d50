"""What is asked and answered over HTTP, as OpenAPI describes it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.detector.page import About
from pipeline.detector.prediction import Prediction
from pipeline.serve.jobs import Job, Jobs, State
from pipeline.serve.settings import Settings

_ANSWER: dict[str, Any] = {
    "says": "weak support for a fake",
    "score": 0.771,
    "log10_lr": 0.64,
    "limits": [-1.07, 1.21],
    "probability": 0.82,
    "reasons": [],
}
_UNCLEAR = "too little sound: 0.40 s above silence, at least 1 s needed"
_PREDICTION: dict[str, Any] = {
    "path": "upload",
    "score": 0.771,
    "windows": [{"start_s": 0.19, "score": 0.622}, {"start_s": 3.91, "score": 0.818}],
    "reason": "",
    "answer": _ANSWER,
    "modalities": {
        "visual": {**_ANSWER, "log10_lr": 0.41, "limits": [-0.44, 0.55], "probability": 0.72},
        "audio": {
            "says": f"cannot tell: {_UNCLEAR}", "score": 0.5, "log10_lr": None, "limits": None, "probability": None,
            "reasons": [_UNCLEAR],
        },
    },
    "quantities": {"face_share": 0.97, "speech_s": 0.4, "visual_distance": 1.1, "audio_distance": 1.3, "spread": 0.02},
}  # fmt: skip
_JOB: dict[str, Any] = {
    "id": "2Xp0qJm3tK8nV5sYb7RwLc4dHf6gZa1e",
    "state": "done",
    "ahead": 0,
    "share": 1.0,
    "result": _PREDICTION,
}

FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "additionalProperties": False,
            "properties": {
                "file": {"type": "string", "format": "binary", "description": "A clip; its name is unread."}
            },
        }
    },
    "application/json": {
        "schema": {"$ref": "#/components/schemas/PathAsked"},
        "example": {"path": "interviews/monday.mp4"},
    },
}
"""The two kinds of body that ask for a clip."""


class PathAsked(BaseModel):
    """A file that the service's machine has."""

    model_config = ConfigDict(extra="forbid", strict=True)
    path: Annotated[
        str,
        Field(min_length=1, max_length=4096, description="Below the folder that the service was started with."),
    ]


class JobShown(BaseModel):
    """A job: how far it is, and what came of it."""

    model_config = ConfigDict(json_schema_extra={"example": _JOB})
    id: Annotated[str, Field(description="Nobody can guess it; whoever knows it may ask for the result.")]
    state: Annotated[
        State, Field(description="failed: the process that worked on the clip died or took too long; `result` says so.")
    ]
    ahead: Annotated[int, Field(description="So many clips wait before it.")] = 0
    share: Annotated[float | None, Field(description="Of the work that is done, 0 to 1; null where not known.")] = None
    result: Annotated[
        Prediction | None, Field(description="What `bmnas predict --json` prints; null until it is there.")
    ] = None

    @classmethod
    def of(cls, job: Job, jobs: Jobs) -> JobShown:
        """What is shown of it now."""
        return cls(id=job.id, state=job.state, ahead=jobs.ahead(job), share=job.share, result=job.result)


class Limits(BaseModel):
    """What is taken here."""

    max_bytes: Annotated[int, Field(description="Of an upload.")]
    max_duration_s: Annotated[float, Field(description="Of a clip.")]
    time_limit_s: Annotated[float, Field(description="Of the work on a clip.")]
    keep_s: Annotated[float, Field(description="So long a result can be asked for.")]
    paths: Annotated[bool, Field(description="Whether clips can be asked for by their path.")]

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those of the service."""
        return cls(
            max_bytes=settings.max_bytes,
            max_duration_s=settings.max_duration_s,
            time_limit_s=settings.time_limit_s,
            keep_s=settings.keep_s,
            paths=settings.root is not None,
        )


class DetectorShown(BaseModel):
    """What answers here, what it is worth, and what it takes."""

    detector: Annotated[About, Field(description="Texts in it are those of its maker.")]
    limits: Limits


class Health(BaseModel):
    """Whether clips can be scored now."""

    status: Annotated[str, Field(examples=["ok"])]
    workers: Annotated[int, Field(description="That are ready.", examples=[2])]
    held: Annotated[int, Field(description="Clips on their way in, waiting and worked on.", examples=[0])]
