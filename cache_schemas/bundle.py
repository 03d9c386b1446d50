"""A trained detector in one file, `detector.bmnas`: what lies in it, and what is checked before any of it is used.

    bundle.json                 Manifest: format, version, what the detector is, size and SHA-256 of all that follows
    signature.json              Signature of bundle.json; absent where nobody signed
    backbones/MODALITY-N.safetensors    weights of backbones that are files of the maker's own
    onnx/...                    of version 2: graphs of all that is computed, for onnxruntime alone
    evaluate/evidence.json, metrics.json, unlike.safetensors
    protocols/NAME/protocol.json
    report/model-card.md
    retrain/retrain.json, NETWORK-SEED.safetensors

The places are those of a workspace: what is unpacked is one. The zip around it has one form only
(`cache_schemas.stored_zip`), so that any byte that is changed is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NoReturn, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, Field, ValidationError

from cache_schemas.files import file_sha256, replacing, write_text
from cache_schemas.graphs import check_graph
from cache_schemas.run import NetworkName, RetrainRun
from cache_schemas.signature import is_signature
from cache_schemas.stored_zip import Archive, open_stored, refused, write_stored

FORMAT, VERSION = "bmnas detector", 2
MANIFEST, SIGNATURE = "bundle.json", "signature.json"
RETRAINED, METRICS, CARD = "retrain/retrain.json", "evaluate/metrics.json", "report/model-card.md"
_NEEDED = (RETRAINED, METRICS, "evaluate/evidence.json", "evaluate/unlike.safetensors")
_PLACES = re.compile(
    rf"{'|'.join(map(re.escape, (*_NEEDED, CARD)))}|retrain/[\w-]+\.safetensors|protocols/[\w.-]+/protocol\.json"
    r"|backbones/(visual|audio)-\d{1,2}\.safetensors|onnx/(mtcnn-[pro]|spectrogram|networks|(visual|audio)-\d{1,2})\.onnx",
    re.ASCII,
)
MTCNN, SPECTROGRAM, FUSING = (
    tuple(f"onnx/mtcnn-{net}.onnx" for net in "pro"),
    "onnx/spectrogram.onnx",
    "onnx/networks.onnx",
)
_MOST_TEXT = 16 << 20
_MOST_GRAPH = 1 << 30
_MOST_MANIFEST = 1 << 20
_MOST_DEEP = 32
_Model = TypeVar("_Model", bound=BaseModel)
_WORD = re.compile(r"[\w.+-]{1,40}", re.ASCII)


class _Record(BaseModel, extra="forbid", frozen=True):
    """Part of the file."""


class Member(_Record):
    """A file in the bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class BundledBackbone(_Record):
    """A frozen network that the detector stands on; weights_sha256: of its tensors; how: to get them, in words."""

    modality: Literal["visual", "audio"]
    name: str
    weights: str
    weights_sha256: str
    licence: str
    how: str


class Manifest(_Record):
    """bundle.json; bmnas: the version that wrote it; networks: the seeds of each.

    version: 2 where there are graphs, 1 else, which older versions of bmnas read, too.
    """

    format: Literal["bmnas detector"] = "bmnas detector"
    version: Literal[1, 2] = 1
    bmnas: str
    networks: dict[NetworkName, list[int]]
    backbones: list[BundledBackbone]
    members: dict[str, Member]


class Signature(_Record):
    """signature.json: Ed25519, of the bytes of bundle.json; both in hex digits."""

    algorithm: Literal["ed25519"] = "ed25519"
    public_key: str = Field(pattern="^[0-9a-f]{64}$")
    signature: str = Field(pattern="^[0-9a-f]{128}$")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read; public_key: of its signature, in hex digits, None where nobody signed."""

    manifest: Manifest
    sha256: str
    bytes: int
    public_key: str | None


def write_bundle(path: Path, folder: Path, about: Mapping[str, Any], *, key: Ed25519PrivateKey | None = None) -> Bundle:
    """Replaces `path` by a bundle of all files below `folder`, read back before it has its name.

    about: the manifest's fields but for the members. The same files give the same bytes.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    members = {name: Member(sha256=file_sha256(folder / name), bytes=(folder / name).stat().st_size) for name in names}
    version = 2 if any(name.endswith(".onnx") for name in names) else 1
    manifest = Manifest.model_validate({**about, "version": version, "members": members})
    with TemporaryDirectory(prefix="bmnas-bundle-") as made:
        first = {MANIFEST: Path(made, MANIFEST)}
        write_text(first[MANIFEST], manifest.model_dump_json(indent=1) + "\n")
        if key is not None:
            signature = Signature(
                public_key=key.public_key().public_bytes_raw().hex(),
                signature=key.sign(first[MANIFEST].read_bytes()).hex(),
            )
            first[SIGNATURE] = Path(made, SIGNATURE)
            write_text(first[SIGNATURE], signature.model_dump_json(indent=1) + "\n")
        with replacing(path) as temporary:
            write_stored(temporary, first | {name: folder / name for name in names})
            unpack_bundle(temporary, Path(made, "read back"))
    return Bundle(manifest, file_sha256(path), path.stat().st_size, signature.public_key if key else None)


def unpack_bundle(path: Path, folder: Path, *, public_key: bytes | None = None) -> Bundle:
    """Writes the detector below `folder`, as a workspace; nothing where any check fails.

    public_key: the bundle must be signed by its owner. Raises BundleError for whatever is not as it must be, and names
    it: headers, names, sizes, digests, versions, the signature, JSON; what is in safetensors files is not looked at.
    """
    with open_stored(path) as archive:
        manifest, signed_by = _read_manifest(archive, public_key)
        _check_members(archive, manifest)
        for name in manifest.members:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with target.open("xb") as file:
                file.writelines(archive.chunks(name))
            if file_sha256(target) != manifest.members[name].sha256:
                raise refused(path, name, "it was changed while it was read", "a file that stays as it is")
        return Bundle(manifest, archive.sha256(), archive.size, signed_by)


def _read_manifest(archive: Archive, public_key: bytes | None) -> tuple[Manifest, str | None]:
    """(bundle.json, the public key of its signature)"""
    path = archive.path
    if next(iter(archive.entries)) != MANIFEST:
        raise refused(path, "its first member", next(iter(archive.entries)), MANIFEST, "is it a bundle at all?")
    raw = archive.read(MANIFEST, _MOST_MANIFEST)
    content = plain_json(path, MANIFEST, raw)
    _check_version(path, content)
    manifest = _validated(path, MANIFEST, Manifest, content)
    signature = None
    if SIGNATURE in archive.entries:
        content = plain_json(path, SIGNATURE, archive.read(SIGNATURE, _MOST_MANIFEST))
        signature = _validated(path, SIGNATURE, Signature, content)
    if signature and not is_signature(bytes.fromhex(signature.signature), raw, bytes.fromhex(signature.public_key)):
        raise refused(path, SIGNATURE, "it is not that of bundle.json", "the signature of what lies in the bundle")
    if public_key and (signature is None or signature.public_key != public_key.hex()):
        by = f"signed by the owner of {signature.public_key}" if signature else "nobody signed it"
        raise refused(path, SIGNATURE, by, f"a signature by the owner of --key, {public_key.hex()}")
    return manifest, signature.public_key if signature else None


def _check_version(path: Path, content: Any) -> None:
    """Before all else of bundle.json: what later versions write there is not known."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise refused(path, MANIFEST, "no format of that name", f'"format": "{FORMAT}"', "is it a bundle at all?")
    version, made_by = content.get("version"), str(content.get("bmnas"))
    if not isinstance(version, int) or version < 1:
        raise refused(path, MANIFEST, f"version {version!r}", f"1 to {VERSION}")
    if version > VERSION:
        which = f"bmnas {made_by}, which wrote it, or newer" if _WORD.fullmatch(made_by) else "a newer bmnas"
        raise refused(path, MANIFEST, f"format {version}", f"this bmnas reads up to {VERSION}", f"install {which}")


def _validated(path: Path, name: str, kind: type[_Model], content: Any) -> _Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise refused(path, name, f"field {place}: {first['msg']}", "what bmnas writes") from None


def _check_members(archive: Archive, manifest: Manifest) -> None:
    """All that can be known of the members without unpacking them."""
    path, listed = archive.path, manifest.members
    others = archive.entries.keys() - {MANIFEST, SIGNATURE}
    for names, found, allowed in (
        (others - listed.keys(), "it is not in bundle.json", "what that lists"),
        (listed.keys() - others, "bundle.json lists it, and it is not there", "all that is listed"),
        (set(_NEEDED) - listed.keys(), "it is missing", f"a detector has {', '.join(_NEEDED)}"),
        ({name for name in listed if not _PLACES.fullmatch(name)}, "no part of a detector", "names as docs/files.md"),
        (
            _graphs(manifest) ^ {name for name in listed if name.startswith("onnx/")},
            "it is missing, or one too many",
            _GRAPHS,
        ),
    ):
        for name in sorted(names):
            raise refused(path, name, found, allowed)
    order = [MANIFEST, *([SIGNATURE] if SIGNATURE in archive.entries else []), *sorted(listed)]
    if list(archive.entries) != order:
        raise refused(path, "its directory", "members in another order", "bundle.json, its signature, then by name")
    for name, member in listed.items():
        if member.bytes != archive.entries[name].size:
            size = archive.entries[name].size
            raise refused(path, name, f"it has {size} bytes", f"{member.bytes}, as bundle.json says")
        if name.endswith(".safetensors"):
            sha, text = hashlib.sha256(), b""
            for chunk in archive.chunks(name):
                sha.update(chunk)
        else:
            text = archive.read(name, _MOST_GRAPH if name.endswith(".onnx") else _MOST_TEXT)
            sha = hashlib.sha256(text)
        if sha.hexdigest() != member.sha256:
            raise refused(path, name, f"its SHA-256 is {sha.hexdigest()}", f"{member.sha256}, as bundle.json says")
        _check_content(path, name, text)
    run = _validated(path, RETRAINED, RetrainRun, plain_json(path, RETRAINED, archive.read(RETRAINED, _MOST_TEXT)))
    named = {f"retrain/{entry.weights}" for entry in run.entries}
    there = {name for name in listed if re.fullmatch(r"retrain/.*\.safetensors", name)}
    for name in sorted(named ^ there):
        raise refused(path, name, "retrain.json and the bundle do not agree about it", "the weights that it names")


def backbone_graph(modality: str, number: int) -> str:
    """Where the graph of a modality's backbone of that number lies."""
    return f"onnx/{modality}-{number}.onnx"


_GRAPHS = "all graphs of a detector of version 2, and none in version 1"


def _graphs(manifest: Manifest) -> set[str]:
    """The names of those that there must be."""
    if manifest.version == 1:
        return set()
    modalities = [of.modality for of in manifest.backbones]
    backbones = {backbone_graph(m, i) for m in modalities for i in range(modalities.count(m))}
    return {*MTCNN, SPECTROGRAM, FUSING, *backbones}


def _check_content(path: Path, name: str, content: bytes) -> None:
    if name.endswith(".json"):
        plain_json(path, name, content)
    elif name.endswith(".onnx"):
        try:
            check_graph(content)
        except ValueError as error:
            raise refused(path, name, str(error), "standard operators, with their weights in the file") from None


def plain_json(path: Path, name: str, raw: bytes) -> Any:
    """What the member says; raises BundleError for what two readers could read differently, or not at all."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number of JSON")

    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise refused(path, name, str(error), "JSON in UTF-8, every key once, finite numbers") from None
    level, depth = [content], 0
    while level := [inner for value in level for inner in _inside(value)]:
        depth += 1
        if depth > _MOST_DEEP:
            raise refused(path, name, f"more than {_MOST_DEEP} levels in one another", "fewer")
    return content


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
