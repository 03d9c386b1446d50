"""What a worker says to strangers."""

import json
import tempfile
from dataclasses import asdict

from pipeline.detector.prediction import Prediction, unscored
from pipeline.serve.worker import for_strangers


def test_no_folder_of_the_machine_is_told() -> None:
    file, folder = "/srv/spool/0a0b", tempfile.gettempdir()
    why = f"unexpected OSError: No space left on device: '{folder}/sound-1' while reading {file}"
    found = for_strangers(unscored(file, why), file, "upload")
    told = json.dumps(asdict(found))
    assert file not in told
    assert folder not in told
    assert "No space left on device" in found.answer.says
    assert found.reason.endswith("while reading upload")
    assert for_strangers(Prediction(file, 0.5), file, "upload").path == "upload"
