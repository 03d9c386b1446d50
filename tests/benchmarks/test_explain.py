"""The films that explanations are asked about are fake where they are said to be."""

from dataclasses import replace

import numpy as np

from benchmarks.explain import joined, mostly, spliced
from pipeline.synth.clip import picture_of, sound_of
from pipeline.synth.plan import ClipSpec
from pipeline.synth.take import FPS, SAMPLE_RATE_HZ


def test_a_spliced_film_is_fake_for_its_second_alone() -> None:
    spec = ClipSpec(0, 0.3, 1000, 0, "RVRA", "", "")
    real = picture_of(spec), sound_of(spec)
    fake = picture_of(replace(spec, video_method="mouth-redub")), sound_of(replace(spec, audio_method="vocoder"))
    pictures, samples = spliced(real, fake, FPS, 2 * FPS)
    differs = np.flatnonzero((pictures != real[0]).any(axis=(1, 2, 3)))
    assert set(differs) == set(range(FPS, 2 * FPS))
    heard = np.flatnonzero(samples != real[1])
    assert SAMPLE_RATE_HZ <= heard[0] < heard[-1] < 2 * SAMPLE_RATE_HZ
    assert len(heard) > SAMPLE_RATE_HZ / 2
    three = joined([real, fake, real])
    assert len(three[0]) / FPS * SAMPLE_RATE_HZ == len(three[1])


def test_a_window_is_of_the_take_that_it_mostly_shows() -> None:
    assert mostly(4, 8, 5.5, 12)
    assert not mostly(4, 8, 6.5, 12)
    assert not mostly(4, 8, 9, 12)
