"""evidence.json is read as it was written, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.evidence import Evidence, SystemEvidence, read_evidence, write_evidence
from cache_schemas.files import file_sha256
from cache_schemas.run import RunFileError

SYSTEM = SystemEvidence(
    kind="isotonic", points=[(0.1, -0.5), (0.9, 1 / 3)], low=-0.9, high=0.8, threshold=0.4,
    limits={"spread": None, "face_share": 0.25}, n_real=8, n_fake=24,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unlike.safetensors").write_bytes(b"matrices")
    sha = file_sha256(tmp_path / "unlike.safetensors")
    write_evidence(tmp_path, Evidence(retrained="a", systems={"fusion": SYSTEM}, undefined={"audio": "x"}, unlike=sha))
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    path = folder / "evidence.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_is_written_is_read(folder: Path) -> None:
    found = read_evidence(folder, retrained="a")
    assert found.systems == {"fusion": SYSTEM}
    assert found.undefined == {"audio": "x"}


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "evidence.json").unlink()
    with pytest.raises(RunFileError, match=r"evidence\.json does not exist: run `bmnas evaluate`"):
        read_evidence(folder, retrained="a")


def test_a_file_changed_by_hand_is_refused(folder: Path) -> None:
    system = json.loads((folder / "evidence.json").read_text())["systems"]["fusion"]
    change(folder, systems={"fusion": system | {"high": 9.0}})
    with pytest.raises(RunFileError, match=r"evidence\.json: .*was changed after"):
        read_evidence(folder, retrained="a")
    change(folder, own="")
    with pytest.raises(RunFileError, match=r"evidence\.json: field own is empty"):
        read_evidence(folder, retrained="a")


def test_what_the_schema_does_not_allow_is_named(folder: Path) -> None:
    system = json.loads((folder / "evidence.json").read_text())["systems"]["fusion"]
    change(folder, systems={"fusion": system | {"low": 1.0}})
    with pytest.raises(RunFileError, match=r"evidence\.json: field systems\.fusion\.low"):
        read_evidence(folder, retrained="a")


@pytest.mark.parametrize("claim", [{"low": -1e300}, {"high": 101.0}])
def test_claims_that_no_clips_support_are_refused(folder: Path, claim: dict[str, float]) -> None:
    """10 to that power would be no number, wherever it is told."""
    system = json.loads((folder / "evidence.json").read_text())["systems"]["fusion"]
    change(folder, systems={"fusion": system | claim})
    with pytest.raises(RunFileError, match=r"evidence\.json: field systems\.fusion\."):
        read_evidence(folder, retrained="a")


def test_evidence_of_other_networks_or_with_other_matrices_is_refused(folder: Path) -> None:
    with pytest.raises(RunFileError, match=r"evidence\.json is of other networks"):
        read_evidence(folder, retrained="b")
    (folder / "unlike.safetensors").write_bytes(b"others")
    with pytest.raises(RunFileError, match=r"unlike\.safetensors is not the file that evidence\.json names"):
        read_evidence(folder, retrained="a")
    (folder / "unlike.safetensors").unlink()
    with pytest.raises(RunFileError, match=r"unlike\.safetensors is not the file"):
        read_evidence(folder, retrained="a")
