"""Crops come back from their bytes: all of them, or with a clear error."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cache_schemas.pictures import Codec, PictureError, decode_pictures, encode_pictures

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.just(3))


@pytest.mark.parametrize("codec", ["zstd", "webp"])
@given(pictures=SHAPES.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_lossless_codecs_lose_nothing(codec: Codec, pictures: np.ndarray) -> None:
    assert (decode_pictures(encode_pictures(pictures, codec)) == pictures).all()


def smooth() -> np.ndarray:
    rows, columns = np.mgrid[0:64, 0:64]
    return np.stack([np.stack([rows * 2, columns * 2, rows + columns + t], axis=2) for t in range(4)]).astype(np.uint8)


def test_jpeg_loses_little_and_all_are_smaller_than_the_pixels() -> None:
    for codec in get_args(Codec):
        data = encode_pictures(smooth(), codec)
        assert len(data) < smooth().nbytes / 3
        assert abs(decode_pictures(data).astype(int) - smooth()).mean() < (2 if codec == "jpeg" else 1e-9)


@pytest.mark.parametrize("codec", get_args(Codec))
def test_what_is_cut_short_is_an_error(codec: Codec) -> None:
    data = encode_pictures(smooth(), codec)
    for size in (0, 3, 20, len(data) // 2):
        with pytest.raises(PictureError):
            decode_pictures(data[:size])


def test_an_unknown_codec_is_named_with_those_there_are() -> None:
    with pytest.raises(PictureError, match="zstd, webp, jpeg"):
        decode_pictures(b"gif\0" + bytes(20))
