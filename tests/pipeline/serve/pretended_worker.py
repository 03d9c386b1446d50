"""A worker by `pipeline.serve.worker`'s protocol that does what its file's first line says, with no detector."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from pipeline.detector.prediction import Prediction, WindowScore
from pipeline.statistics.answers import Answer


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    say(ready=True)
    for line in sys.stdin:
        task = json.loads(line)
        what = Path(task["file"]).read_bytes()[:40].decode("latin-1").partition("\n")[0]
        if what == "die":
            os._exit(1)
        if what == "hang":
            Path(os.environ["TMPDIR"], "left behind").write_text("x")
            time.sleep(600)
        if what == "nonsense":
            print("[]", flush=True)
            continue
        if what.startswith("wait "):
            seconds = float(what.partition(" ")[2])
            say(share=0.5)
            time.sleep(seconds)
        answer = Answer("weak support for a fake", 0.7, 0.6, (-1.0, 1.2), 0.8)
        windows = (WindowScore(0.2, 0.6), WindowScore(3.9, 0.8))
        alone = {"visual": answer, "audio": answer}
        say(prediction=asdict(Prediction(task["name"], 0.7, windows, answer=answer, modalities=alone)))


if __name__ == "__main__":
    main()
