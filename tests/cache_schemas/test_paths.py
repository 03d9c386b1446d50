"""File names as text."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.paths import path_name, path_text


@given(st.binary(max_size=40))
def test_every_name_that_a_disk_can_hold_comes_back(name: bytes) -> None:
    text = path_text(os.fsdecode(name))
    assert text.isprintable()
    text.encode()  # no surrogates: any table takes it
    assert os.fsencode(path_name(text)) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("real/Zoë 1.mp4", "real/Zoë 1.mp4"),
        ("100%.mp4", "100%25.mp4"),
        ("a\nb\t.mp4", "a%0Ab%09.mp4"),
        (os.fsdecode(b"\xff.mp4"), "%FF.mp4"),
        ("\u202egpj.mp4", "%E2%80%AEgpj.mp4"),  # turns the text after it round
    ],
)
def test_what_it_looks_like(name: str, text: str) -> None:
    assert path_text(name) == text
    assert path_name(text) == name


def test_half_a_surrogate_pair_is_text_too() -> None:
    assert path_text("\ud800.mp4") == "%ED%A0%80.mp4"
