"""A small bundle, and what is said of those that are refused."""

from pathlib import Path

import pytest

from cache_schemas.bundle import unpack_bundle, write_bundle
from cache_schemas.stored_zip import BundleError
from tests.cache_schemas.small_bundle import ABOUT, Refused, members_of, write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="session")
def members(folder: Path) -> dict[str, bytes]:
    return members_of(folder)


@pytest.fixture(scope="session")
def honest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("honest") / "detector.bmnas"
    write_bundle(path, folder, ABOUT)
    return path.read_bytes()


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Asserts that these bytes are refused, and nothing of them is written; returns what is said."""

    def call(raw: bytes, public_key: bytes | None = None) -> str:
        path, target = tmp_path / "attack.bmnas", tmp_path / "target"
        path.write_bytes(raw)
        target.mkdir(exist_ok=True)
        with pytest.raises(BundleError) as found:
            unpack_bundle(path, target, public_key=public_key)
        assert list(target.iterdir()) == []
        text = str(found.value)
        assert text.startswith(f"{path}: ")
        assert "; allowed: " in text
        return text

    return call
