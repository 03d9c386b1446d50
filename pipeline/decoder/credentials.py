"""What a file's C2PA manifest says, read behind the wall: the library is native code, and the file a stranger's.

No trust list is consulted and nothing is asked of the network, which is not there: whether a signature and its hashes
hold is told, not whether the signer is who it says.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import c2pa

_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_MOST, _LONGEST = 20, 200
_NONE = (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported)


def warm_up() -> None:
    """To be called before the wall: what the library opens when it is first used it opens now."""
    _found(io.BytesIO(bytes(16)))


def read_manifest(_: Mapping[str, Any], fd: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"manifest": what is said, or None where there is none}, {}) of the open file `fd`."""
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        return {"manifest": _found(file)}, {}


def _found(file: io.BufferedIOBase) -> dict[str, Any] | None:
    try:
        # A context is of the process that made it.
        with c2pa.Context(c2pa.Settings.from_dict(_OFFLINE)) as context:
            reader = c2pa.Reader.try_create(None, file, context=context)
            if reader is None:
                return None
            with reader:
                return _told(reader.get_validation_state() or "", json.loads(reader.json()))
    except _NONE:
        return None
    except c2pa.C2paError as error:
        # Of a kind of file that it does not know, too: that cannot be told apart by more than its words.
        return {"state": "unreadable", "problems": [str(error)[:_LONGEST]]}


def _told(state: str, store: dict[str, Any]) -> dict[str, Any]:
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signed, results = active.get("signature_info") or {}, store.get("validation_results") or {}
    failures = results.get("activeManifest", {}).get("failure", [])
    generators = active.get("claim_generator_info") or [{"name": active.get("claim_generator", "")}]
    return {
        "state": state.lower(),
        "generator": " ".join(_text(generators[0].get(name, "")) for name in ("name", "version")).strip(),
        "signer": _text(signed.get("common_name")),
        "issuer": _text(signed.get("issuer")),
        "signed_at": _text(signed.get("time")),
        "actions": [_text(each) for each in _actions(active)][:_MOST],
        "problems": [_text(each.get("code")) for each in failures][:_MOST],
    }


def _actions(active: dict[str, Any]) -> Iterator[str]:
    """What was done to it, each with the kind of source in brackets where it is named."""
    for assertion in active.get("assertions", []):
        if assertion.get("label", "").startswith("c2pa.actions"):
            for each in assertion.get("data", {}).get("actions", []):
                source = str(each.get("digitalSourceType") or "").rpartition("/")[2]
                yield f"{each.get('action')} ({source})" if source else str(each.get("action"))


def _text(value: Any) -> str:
    return str(value or "")[:_LONGEST]
