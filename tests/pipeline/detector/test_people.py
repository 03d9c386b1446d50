"""Every face of a file: the main one as ever, and the others beside it, each in its own windows."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.backbones import load_backbone
from pipeline.detector import road as road_module
from pipeline.detector.parts import Parts
from pipeline.detector.people import Face
from pipeline.detector.road import Road, Walked
from pipeline.faces.networks import torch_networks
from pipeline.params import Params
from pipeline.sound.clip import compute_spectrogram
from tests.pipeline.conftest import small_params
from tests.pipeline.detector.conftest import TwoPeople


def road_of(params: Params) -> Road:
    chosen = (("visual", params.features.visual), ("audio", params.features.audio))
    backbones = [load_backbone(modality, each, "cpu") for modality, of in chosen for each in of]
    return Road(params, Parts(backbones, torch_networks("cpu"), compute_spectrogram, []))


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    return small_params(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def road(params: Params) -> Road:
    return road_of(params)


@pytest.fixture(scope="module")
def pair(road: Road, two_people: TwoPeople) -> Walked:
    return only(road.walk(two_people.pair, faces="all"))


def only(walked: Iterator[Walked]) -> Walked:
    (found,) = walked
    return found


def same(one: Walked | Face, other: Walked | Face) -> bool:
    return one.starts_s == other.starts_s and all(
        np.array_equal(x, other.layers[name]) for name, x in one.layers.items()
    )


def test_the_main_face_is_what_it_was_to_the_bit(road: Road, two_people: TwoPeople, pair: Walked) -> None:
    alone = only(road.walk(two_people.pair))
    assert same(alone, pair)
    assert alone.face_windows == pair.face_windows
    assert alone.faces == ()
    (main,) = (face for face in pair.faces if face.is_main)
    assert same(main, pair)


def test_who_is_beside_the_main_face_is_seen_with_the_same_sound(
    road: Road, two_people: TwoPeople, pair: Walked
) -> None:
    assert len(pair.faces) == 2
    ends = only(road.walk(two_people.real)), only(road.walk(two_people.fake))
    deepest = next(name for name in reversed(pair.layers) if name.startswith("visual/"))

    def nearest(face: Face) -> int:
        return min(
            (0, 1), key=lambda i: float(np.linalg.norm(face.layers[deepest].astype(float) - ends[i].layers[deepest]))
        )

    assert sorted(map(nearest, pair.faces)) == [0, 1]
    for name in (name for name in pair.layers if name.startswith("audio/")):
        assert all(np.array_equal(face.layers[name], pair.layers[name]) for face in pair.faces)


def test_what_all_faces_share_is_done_once(road: Road, two_people: TwoPeople, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is followed once, its sound heard once; only what a backbone sees is seen again for each."""
    calls = Counter[str]()

    def counted(name: str) -> None:
        function = getattr(road_module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            modality = getattr(arguments[1], "modality", "")
            calls[modality or name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(road_module, name, call)

    counted("window_rows")
    counted("every_face")
    only(road.walk(two_people.pair, faces="all"))
    assert calls == {"visual": 2, "audio": 1, "every_face": 1}


def test_after_a_cut_it_is_another_face(road: Road, two_people: TwoPeople) -> None:
    found = only(road.walk(two_people.cut, faces="all"))
    assert len(found.starts_s) == 2
    first, second = found.faces
    assert first.is_main
    assert second.is_main
    assert first.starts_s + second.starts_s == found.starts_s
    assert first.last_s < second.first_s
    for name, x in found.layers.items():
        assert np.array_equal(np.concatenate([first.layers[name], second.layers[name]]), x)


@pytest.mark.parametrize(("hop_s", "people"), [(0.5, 2), (1.5, 4)])
def test_a_face_that_two_stretches_see_at_once_is_one(
    params: Params, two_people: TwoPeople, monkeypatch: pytest.MonkeyPatch, hop_s: float, people: int
) -> None:
    """One that they do not see at once is another: nobody looked whether it went. The last two windows overlap."""
    monkeypatch.setattr(road_module, "STRETCH_WINDOWS", 1)
    windows = params.windows.model_copy(update={"window_s": 1.0})
    road = road_of(params.model_copy(update={"windows": windows}))
    stretches = list(road.walk(two_people.pair, hop_s=hop_s, faces="all"))
    assert len(stretches) > 2
    numbers = [face.number for each in stretches for face in each.faces]
    assert len(numbers) == 2 * len(stretches)
    assert len(set(numbers)) == people
