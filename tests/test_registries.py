"""Names that are written down twice, because nobody may import the other place: both lists say the same."""

from pathlib import Path
from typing import get_args

import yaml

from cache_schemas.run import NETWORKS
from nas.choices import ESTIMATORS
from nas.config import EstimatorName
from nas.primitives import OPERATIONS
from pipeline.controls.probes import probes
from pipeline.datasets import LAYOUTS
from pipeline.params import DataParams
from pipeline.report.sections import METRICS as SHOWN
from pipeline.statistics import systems
from pipeline.statistics.added import SUMMARY
from pipeline.statistics.values import METRICS

ROOT = Path(__file__).parents[1]


def test_every_layout_can_be_asked_for() -> None:
    assert set(get_args(DataParams.model_fields["layout"].annotation)) == LAYOUTS.keys()
    data = (ROOT / "docs" / "data.md").read_text()
    assert not [name for name in LAYOUTS if f"`{name}`" not in data]


def test_every_estimator_can_be_asked_for() -> None:
    assert set(get_args(EstimatorName)) == ESTIMATORS.keys()


def test_every_operation_is_explained() -> None:
    page = (ROOT / "docs" / "method.md").read_text()
    assert not [name for name in OPERATIONS if f"`{name}`" not in page]


def test_the_report_shows_every_metric() -> None:
    assert set(SUMMARY) <= set(METRICS)
    assert set(SHOWN) == set(METRICS)


def test_every_network_and_control_is_explained() -> None:
    assert tuple(systems.NETWORKS) == NETWORKS
    assert {f"{kind}, all layers" for kind in probes} <= set(systems.CONTROLS)


def test_params_yaml_names_every_choice_of_a_layout() -> None:
    text = (ROOT / "params.yaml").read_text()
    assert yaml.safe_load(text)["data"]["layout"] == "synth"
    (line,) = [line for line in text.splitlines() if line.strip().startswith("layout:")]
    assert set(line.partition("#")[2].replace("|", " ").split()) == LAYOUTS.keys()
