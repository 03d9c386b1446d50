"""A report, built once for each module of tests."""

from __future__ import annotations

import pytest

from pipeline.params import Params
from pipeline.report.stage import build_report
from pipeline.workspace import Workspace
from tests.pipeline.report.results import Page, write_more
from tests.pipeline.run_fixture import make_index, make_workspace, write_evaluation


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run with protocols, robustness, calibration, evidence and an audit, and names that want to be markup."""
    index = make_index()
    made = make_workspace(tmp_path_factory.mktemp("work"), index)
    write_evaluation(made, index, seeds=(0, 1))
    write_more(made, index)
    return made


@pytest.fixture(scope="module")
def html(workspace: Workspace) -> str:
    path = build_report(workspace, Params())
    assert path == workspace.report / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)
