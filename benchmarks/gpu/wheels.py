"""Carries what a machine with a GPU lacks and cannot fetch: `collect` where there is a network, `install` on it.

collect: downloads the wheels of CARRIED, in the versions and with the hashes of requirements.lock, into .gpu/wheels,
which git ignores, and prints what each weighs. install: unpacks them into .gpu/site, with the metadata of bmnas itself;
PYTHONPATH=.gpu/site then comes before the machine's own packages, of which all others are used as they are.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK, WHEELS, SITE = ROOT / "requirements.lock", ROOT / ".gpu" / "wheels", ROOT / ".gpu" / "site"
CARRIED = (
    "annotated-types", "av", "beartype", "donfig", "facenet-pytorch", "ffmpeg-python", "future", "google-crc32c",
    "numcodecs", "pydantic", "pydantic-core", "typing-extensions", "typing-inspection", "zarr",
)  # fmt: skip
"""What the parts import beside what comes with torch, timm, h5py, pandas, onnx, typer, pytest, hypothesis and the like.
Neither an ffmpeg nor Dask: no part writes a clip or starts workers; the features stage imports av all the same."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST_BYTES = 64 * 2**20


def main() -> int:
    """What the command exits with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["collect", "install"])
    parser.add_argument("--python", default="3.12", help="collect: of the machine that they are for")
    given = parser.parse_args()
    return collect(given.python) if given.what == "collect" else install()


def collect(python: str) -> int:
    """Downloads the wheels; 1 where they weigh too much."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    for old in WHEELS.iterdir():
        old.unlink()
    wanted = WHEELS.parent / "requirements.txt"
    wanted.write_text("".join(locked(LOCK.read_text(), name, python) for name in CARRIED))
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--python-version", python, *platforms]
    pip("download", "--quiet", *options, "--dest", str(WHEELS), "--requirement", str(wanted))
    sizes = {wheel.name: wheel.stat().st_size for wheel in sorted(WHEELS.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total / 2**20:8.2f} MiB  of {MOST_BYTES / 2**20:.0f}, in {WHEELS.relative_to(ROOT)}")
    return int(total > MOST_BYTES)


def install() -> int:
    """Unpacks the wheels and bmnas's metadata."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(SITE)]
    pip("install", *options, *map(str, sorted(WHEELS.glob("*.whl"))))
    pip("install", *options, "--no-build-isolation", str(ROOT))
    print(f"export PYTHONPATH={SITE}")
    return 0


def locked(lock: str, name: str, python: str) -> str:
    """The lines of the lock file that pin a package, with its hashes, for this Python; KeyError where none does.

    A package that is pinned twice says by a marker for which Pythons; markers are cut off, since pip would read them
    for the Python that it runs in.
    """
    minor = tuple(map(int, python.split(".")))
    for found in re.finditer(rf"^{re.escape(name)}==(\S+)( ; .*?)? \\\n((?:    --hash=.*\n)+)", lock, re.MULTILINE):
        version, marker, hashes = found.groups()
        bound = re.search(r"python_full_version (<|>=) '(\d+)\.(\d+)", marker or "")
        if bound is None or (minor < (int(bound[2]), int(bound[3]))) == (bound[1] == "<"):
            return f"{name}=={version} \\\n{hashes}"
    raise KeyError(f"{name} is not in requirements.lock for Python {python}")


def pip(*arguments: str) -> None:
    """Runs pip; raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True, cwd=ROOT)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
