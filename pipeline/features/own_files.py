"""`python -m pipeline.features.own_files`: the files that params.yaml names for backbones, and the digest of each.

Own modules, networks and weights are files that DVC cannot find in params.yaml by itself. It runs this before every
`dvc repro`, so it must start at once: torch is not imported. Weights in work/ are left out: the stage that writes them
is known.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cache_schemas.files import file_sha256, write_json

STAGES = ("pretrain", "features")


def own_files(section: Mapping[str, Any], work: Path) -> dict[str, str]:
    """{what one section of params.yaml names: its file's SHA-256, or "missing"}, in the order of names."""
    found = {}
    for name, path in _named(section):
        if not path.resolve().is_relative_to(work.resolve()):
            found[name] = file_sha256(path) if path.is_file() else "missing"
    return dict(sorted(found.items()))


def _named(section: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    for modality in ("visual", "audio"):
        networks = section.get(modality) or []
        for network in networks if isinstance(networks, list) else [networks]:
            kind, _, value = str(network.get("weights")).partition(":")
            if kind == "file":
                yield value, Path(value)
            module, colon, rest = str(network.get("name")).partition(":")
            if module == "transformers" and rest.startswith((".", "/")):  # as params.transformers_folder has it
                read = (path for pattern in ("*.json", "*.safetensors") for path in Path(rest).glob(pattern))
                yield from ((str(path), path) for path in read)
            elif module == "onnx":
                path = Path(rest.partition("#")[0])
                yield str(path), path
            elif colon:
                inner = module.replace(".", "/")  # found without importing it
                places = (Path(folder, inner) for folder in sys.path)
                files = (
                    file for place in places for file in (place.with_name(f"{place.name}.py"), place / "__init__.py")
                )
                yield from ((module, file) for file in itertools.islice(filter(Path.is_file, files), 1))


def main() -> None:
    """Writes work/own_files/STAGE.json."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")) or {}
    for stage in STAGES:
        write_json(Path("work/own_files") / f"{stage}.json", own_files(params.get(stage) or {}, Path("work")))


if __name__ == "__main__":
    main()
