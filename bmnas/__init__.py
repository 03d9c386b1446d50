"""bmnas from Python: what is here keeps its names; everything else may change.

    from bmnas import Detector

    with Detector.load("work") as detector:
        print(detector.score("interview.mp4").answer.says)

A name is imported when it is first asked for, so that `import bmnas` itself takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache_schemas.features import FeatureCache
    from nas import CompactNetwork, Genotype, RetrainConfig, SearchConfig, retrain, search
    from pipeline.detector.predict import Detector
    from pipeline.detector.prediction import Prediction, WindowScore
    from pipeline.detector.road import DetectorError
    from pipeline.params import load_params
    from pipeline.statistics.answers import Answer

__all__ = [
    "Answer", "CompactNetwork", "Detector", "DetectorError", "FeatureCache", "Genotype", "Prediction", "RetrainConfig",
    "SearchConfig", "WindowScore", "load_params", "retrain", "search",
]  # fmt: skip

_PLACES = {
    "Answer": "pipeline.statistics.answers",
    "CompactNetwork": "nas",
    "Detector": "pipeline.detector.predict",
    "DetectorError": "pipeline.detector.road",
    "FeatureCache": "cache_schemas.features",
    "Genotype": "nas",
    "Prediction": "pipeline.detector.prediction",
    "RetrainConfig": "nas",
    "SearchConfig": "nas",
    "WindowScore": "pipeline.detector.prediction",
    "load_params": "pipeline.params",
    "retrain": "nas",
    "search": "nas",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"bmnas has no {name!r}; it has {', '.join(__all__)}")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
