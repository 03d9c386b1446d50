"""Windows: picture and sound are cut alike, and a clip is covered to its end."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media import MediaError
from pipeline.params import WindowParams
from pipeline.shards.windows import frame_times, plan_windows, window_samples

RATE = 100


@pytest.mark.parametrize(
    ("duration", "silence", "trim", "starts", "available"),
    [
        (10.0, 0.4, True, (0.4, 3.2, 6.0), 4.0),
        (10.0, 0.4, False, (0.0, 3.0, 6.0), 4.0),
        (7.9, 0.0, True, (0.0, 3.9), 4.0),
        (8.0, 0.0, True, (0.0, 4.0), 4.0),
        (4.0, 0.0, True, (0.0,), 4.0),
        (4.03, 0.0, True, (0.0,), 4.0),  # a container's rounding makes no second window
        (3.97, 0.0, True, (0.0,), 3.97),  # nor a window short
        (3.0, 0.5, True, (0.5,), 2.5),
    ],
)
def test_plan(duration: float, silence: float, trim: bool, starts: tuple[float, ...], available: float) -> None:
    params = WindowParams(trim_silence=trim)
    windows = plan_windows("c", duration_s=duration, leading_silence_s=silence, params=params)
    assert windows.starts_s == starts
    assert windows.available_s == pytest.approx(available)


def test_long_clips_give_windows_from_beginning_to_end() -> None:
    windows = plan_windows("c", duration_s=400, leading_silence_s=0, params=WindowParams(max_per_clip=3))
    assert windows.starts_s == (0.0, 198.0, 396.0)
    assert windows.covered_s == 12.0


@pytest.mark.parametrize(
    ("duration", "hop", "starts"),
    [
        (10.0, 2.0, (0.4, 2.4, 4.4, 6.0)),
        (10.4, 2.0, (0.4, 2.4, 4.4, 6.4)),
        (10.0, 100.0, (0.4, 6.0)),
        (4.4, 1.0, (0.4,)),
        (3.0, 1.0, (0.4,)),
    ],
)
def test_windows_begin_a_hop_apart_to_the_end(duration: float, hop: float, starts: tuple[float, ...]) -> None:
    params = WindowParams(max_per_clip=1)
    windows = plan_windows("c", duration_s=duration, leading_silence_s=0.4, params=params, hop_s=hop)
    assert windows.starts_s == starts


@given(st.floats(0.3, 120), st.floats(0, 0.09), st.floats(0.5, 6), st.integers(1, 300))
def test_windows_cover_a_clip_to_its_end(duration: float, silence: float, window: float, most: int) -> None:
    params, rounding = WindowParams(window_s=window, max_per_clip=most), 0.05
    windows = plan_windows("c", duration_s=duration, leading_silence_s=silence, params=params)
    starts, length = np.array(windows.starts_s), duration - silence
    ends = starts + windows.available_s
    wanted = max(1, math.ceil((length - rounding) / window))
    assert len(starts) == min(wanted, most)
    assert windows.available_s == pytest.approx(min(length, window), abs=1e-6)
    assert starts[0] == pytest.approx(silence, abs=1e-6)
    assert (np.diff(starts) > 0).all()
    assert (ends < duration + 1e-5).all(), "no window is longer than what there is"
    gaps = np.maximum(starts[1:] - ends[:-1], 0)
    assert windows.covered_s == pytest.approx(ends[-1] - starts[0] - gaps.sum(), abs=1e-4)
    if wanted == 1 or most > 1:
        assert ends[-1] == pytest.approx(duration, abs=rounding + 1e-5 if wanted == 1 else 1e-5)
    if len(starts) == wanted:
        assert gaps.sum() < rounding + 1e-5, "every second is in a window"
    if len(starts) > 2:
        assert np.diff(starts) == pytest.approx(np.full(len(starts) - 1, np.diff(starts).mean()), abs=1e-5)


def test_short_clips_follow_the_policy() -> None:
    with pytest.raises(MediaError, match=r"3\.00 s that can be used, at least 4 s needed"):
        plan_windows("c", duration_s=3, leading_silence_s=0, params=WindowParams(short_clip="quarantine"))
    with pytest.raises(MediaError, match="too short"):
        plan_windows("c", duration_s=2, leading_silence_s=1.95, params=WindowParams())


def test_table_of_policies() -> None:
    """A 3 s clip in a window of 4 s, one position a second."""
    sound = np.repeat(np.arange(3, dtype=np.float32), RATE)
    for policy, expected in {"wrap": [0, 1, 2, 0], "repeat_last": [0, 1, 2, 2]}.items():
        params = WindowParams(short_clip=policy)
        windows = plan_windows("c", duration_s=3, leading_silence_s=0, params=params)
        times = frame_times(windows, frames=4, params=params)[0]
        heard = window_samples(sound, windows, sample_rate_hz=RATE, params=params)[0]
        assert list(np.minimum(times, 2.99).astype(int)) == expected
        assert list(heard[RATE // 2 :: RATE].astype(int)) == expected


@given(st.floats(0.3, 30), st.floats(0, 0.09), st.sampled_from(["wrap", "repeat_last"]), st.floats(0.5, 6))
def test_picture_and_sound_of_a_position_are_of_the_same_time(
    duration: float, silence: float, policy: str, window: float
) -> None:
    """The sound is its own clock: sample i says i. Each frame's time must be that of the sound at its place."""
    params = WindowParams(short_clip=policy, window_s=window)
    clock = np.arange(int(duration * 1000), dtype=np.float32) / 1000
    windows = plan_windows("c", duration_s=len(clock) / 1000, leading_silence_s=silence, params=params)
    times = frame_times(windows, frames=4, params=params)
    heard = window_samples(clock, windows, sample_rate_hz=1000, params=params)
    middle = np.round((np.arange(4) + 0.5) * window / 4 * 1000).astype(int)
    difference = np.abs(heard[:, np.minimum(middle, heard.shape[1] - 1)] - np.minimum(times, clock[-1]))
    # At the seam of a wrapped clip a rounding may fall on the other side of it.
    at_seam = np.abs(difference - windows.available_s) < 0.005
    assert (np.minimum(difference, np.where(at_seam, 0, difference)) < 0.005).all()
    assert heard.shape == (len(windows.starts_s), round(window * 1000))
