"""A worker by `pipeline.serve.worker`'s protocol that does what its file's first line says, with no detector.

It imports nothing of ours: hundreds of them start in these tests.
"""

import json
import os
import sys
import time
from pathlib import Path

ANSWER = {
    "says": "weak support for a fake", "score": 0.7, "log10_lr": 0.6, "limits": [-1.0, 1.2], "probability": 0.8,
    "reasons": [],
}  # fmt: skip


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    say(ready=True)
    for line in sys.stdin:
        task = json.loads(line)
        what = Path(task["file"]).read_bytes()[:400].decode("latin-1").partition("\n")[0]
        if what == "die":
            os._exit(1)
        if what == "hang":
            Path(os.environ["TMPDIR"], "left behind").write_text("x")
            time.sleep(600)
        if what == "nonsense":
            print("[]", flush=True)
            continue
        if what.startswith("wait "):
            say(share=0.5)
            time.sleep(float(what.partition(" ")[2]))
        while what.startswith("/") and Path(what).exists():
            time.sleep(0.02)
        windows = [{"start_s": 0.2, "score": 0.6}, {"start_s": 3.9, "score": 0.8}]
        alone = {"visual": ANSWER, "audio": ANSWER}
        found = {"path": task["name"], "score": 0.7, "windows": windows, "answer": ANSWER, "modalities": alone}
        say(prediction=found)


if __name__ == "__main__":
    main()
