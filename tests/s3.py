"""An S3 of this machine, by moto."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from zarr.core.sync import _get_loop


@contextmanager
def s3_server() -> Iterator[None]:
    """Whoever speaks S3 speaks to it; it holds nothing at first."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with s3_client(f"http://{host}:{port}"):
        yield
    server.stop()


@contextmanager
def s3_client(url: str) -> Iterator[None]:
    """Whoever speaks S3, here and in processes that start inside, speaks to the server there."""
    kind = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FSSPEC_S3_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_REGION", "us-east-1")
        kind.clear_instance_cache()
        try:
            yield
        finally:
            for files in kind._cache.values():  # s3fs leaves the sessions of Zarr's file systems open
                loop = _get_loop() if files.asynchronous else files.loop
                if files._s3 is not None:
                    fsspec.asyn.sync(loop, files._s3.close)
            kind.clear_instance_cache()
