"""One worker: a process with a detector of its own, that is told files and says what it finds, a line of JSON each.

    {"file": "/spool/x", "name": "upload"}   in
    {"share": 0.25}, ..., {"prediction": {...}}   out, after {"ready": true} or {"error": "..."} at the start

It ends when nobody can tell it anything any more. Nothing that comes from a file reaches the service but as such lines.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import Any

from pipeline import media
from pipeline.detector.predict import Detector
from pipeline.detector.prediction import Prediction, unscored


def main(detector_folder: str, max_duration_s: str) -> None:
    """Loads the detector that lies in the folder, and works until standard input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)  # what a library prints is no answer

        def say(**message: Any) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        asked = SimpleQueue[str]()
        threading.Thread(target=_listen, args=(asked,), daemon=True).start()
        try:
            detector = Detector.load(detector_folder)
        except Exception as error:
            say(error=f"{error}")
            raise
        say(ready=True)
        while True:
            task = json.loads(asked.get())
            found = _score(detector, media.Inside(task["file"]), float(max_duration_s), say)
            say(prediction=asdict(for_strangers(found, task["file"], task["name"])))


def for_strangers(found: Prediction, file: str, name: str) -> Prediction:
    """The same without where anything lies on this machine: neither the file, nor what is written down meanwhile."""
    if not found.reason:
        return replace(found, path=name)
    reason = found.reason.replace(file, name).replace(tempfile.gettempdir(), "the folder of temporary files")
    return replace(unscored(name, reason), provenance=found.provenance)


def _listen(asked: SimpleQueue[str]) -> None:
    """Ends the process with its service, whatever it is doing: a killed service leaves none behind."""
    for line in sys.stdin:
        asked.put(line)
    os._exit(0)


def _score(detector: Detector, file: media.Inside, max_duration_s: float, say: Callable[..., None]) -> Prediction:
    """The file is what the service found, without links: one put there since then leads nowhere."""
    try:
        with media.one_file(max_duration_s + 1):  # what lies behind it is not even listed
            lasts_s = media.probe(file).duration_s
    except Exception:
        lasts_s = 0.0  # the detector says what is wrong with it
    if lasts_s > max_duration_s:
        return unscored(str(file), f"the clip lasts longer than {max_duration_s:g} s, the longest that is taken here")
    return detector.score(file, progress=lambda share: say(share=share))


if __name__ == "__main__":
    main(*sys.argv[1:])
