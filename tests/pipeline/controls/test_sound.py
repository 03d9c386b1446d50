"""The sound of another clip: never one's own, of the same kind, and nothing else is another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.controls.sound import other_sound, other_windows


def index_of(windows: Sequence[tuple[str, str]], *, split: str = "test", category: str = "RVRA") -> pd.DataFrame:
    """windows: (person, clip) of each."""
    people, clips = zip(*windows, strict=True)
    return pd.DataFrame(
        {"clip_id": clips, "subject_id": people, "split": split, "clip_category": category, "has_audio": True}
    )


def same(index: pd.DataFrame, places: np.ndarray, column: str) -> int:
    return int((index[column].to_numpy() == index[column].to_numpy()[places]).sum())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=24), st.integers(0, 5), st.booleans()
)
def test_nobody_hears_oneself_where_there_are_others(
    windows: list[tuple[int, int]], seed: int, two_kinds: bool
) -> None:
    index = index_of([(f"p{person}", f"p{person}c{clip}") for person, clip in windows])
    if two_kinds:
        index = pd.concat([index, index.assign(clip_category="FVFA", clip_id=index["clip_id"] + "x")])
    places = other_windows(index, seed)
    for _, of in index.reset_index(drop=True).groupby("clip_category"):
        mine = places[of.index]
        assert set(mine) <= set(of.index), "of the same kind"
        counts, people = of["clip_id"].value_counts(), of["subject_id"].value_counts()
        if counts.max() <= len(of) / 2:
            assert sorted(mine) == list(of.index), "each once"
            assert (of["clip_id"].to_numpy() != index["clip_id"].to_numpy()[mine]).all()
            alike = (of["subject_id"].to_numpy() == index["subject_id"].to_numpy()[mine]).sum()
            assert alike == max(0, 2 * people.max() - len(of)), "no fewer can be"
        elif len(counts) > 1:
            assert (of["clip_id"].to_numpy() != index["clip_id"].to_numpy()[mine]).all()
        else:
            assert list(mine) == list(of.index)


def test_splits_are_not_mixed_and_silence_stays() -> None:
    index = pd.concat(
        [index_of([(f"{s}{i}", f"{s}{i}") for i in range(6)], split=s) for s in ("train", "val", "test")]
    ).reset_index(drop=True)
    index.loc[[1, 8], "has_audio"] = False
    places = other_windows(index, 0)
    assert list(np.flatnonzero(places == np.arange(18))) == [1, 8]
    assert same(index, places, "split") == 18
    assert not {1, 8} & set(np.delete(places, [1, 8]))


def test_it_is_drawn_from_the_seed() -> None:
    index = index_of([(f"p{i}", f"c{i}") for i in range(12)])
    assert (other_windows(index, 3) == other_windows(index, 3)).all()
    assert (other_windows(index, 3) != other_windows(index, 4)).any()


@pytest.mark.parametrize("views", [(), (2,)])
def test_the_picture_stays_and_the_sound_is_anothers(views: tuple[int, ...]) -> None:
    index = index_of([(f"p{i}", f"c{i}") for i in range(5)])
    features = {f"{m}/net.1": torch.rand(*views, 5, 3, 2) for m in ("visual", "audio")}
    found, places = other_sound(features, index, 1), other_windows(index, 1)
    assert torch.equal(found["visual/net.1"], features["visual/net.1"])
    for i, place in enumerate(places):
        assert torch.equal(found["audio/net.1"][..., i, :, :], features["audio/net.1"][..., place, :, :])
