"""What is kept of when retrained networks can be asked: read without what it took to learn it."""

from __future__ import annotations

from cache_schemas.evidence import Evidence, read_evidence
from cache_schemas.files import file_sha256
from cache_schemas.run import RunFileError, missing
from pipeline.runs.unlike import Familiar, read_familiar
from pipeline.statistics.answers import QUANTITIES
from pipeline.workspace import Workspace


def kept_evidence(workspace: Workspace) -> tuple[Evidence, dict[str, Familiar]]:
    """What `evidence.keep_evidence` kept; raises RunFileError where it is missing, changed, or of other networks."""
    evidence = read_evidence(workspace.evaluate, retrained=retrained_digest(workspace))
    for network, system in evidence.systems.items():
        if unknown := system.limits.keys() - set(QUANTITIES[network]):
            raise RunFileError(
                f"{workspace.evaluate / 'evidence.json'}: systems.{network}.limits: {', '.join(sorted(unknown))}; "
                f"allowed: {', '.join(QUANTITIES[network])}: run `bmnas evaluate` again"
            )
    return evidence, read_familiar(workspace.evaluate / "unlike.safetensors")


def retrained_digest(workspace: Workspace) -> str:
    """What evidence names the retrained networks by; raises RunFileError where there are none."""
    path = workspace.retrain / "retrain.json"
    if not path.exists():
        raise missing(path, "retrain")
    return file_sha256(path)[:16]
