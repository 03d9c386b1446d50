"""The rows of a table with the structure of FakeAVCeleb v1.2's, made up: as many clips of each category and people of
each group, and nobody is in a fake with somebody of another group.

What is not known here is chosen: whom a fake takes, and how many have a third person (so many that dealing people at
random keeps about as many clips as it does of the real table, 9,100).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cache_schemas.manifest import Clip, category_of

RACES = ("African", "Asian (East)", "Asian (South)", "Caucasian (American)", "Caucasian (European)")
GENDERS = ("men", "women")
GROUPS = [(race, gender) for race in RACES for gender in GENDERS]
FAKE_PICTURES = {
    # type: (clips, share with a third person, methods)
    "FakeVideo-RealAudio": (9709, 0.0, ("wav2lip", "faceswap", "fsgan")),
    "FakeVideo-FakeAudio": (10835, 0.4, ("wav2lip", "faceswap-wav2lip", "fsgan-wav2lip")),
}
LABELS = {
    "RealVideo-RealAudio": (0, 0),
    "RealVideo-FakeAudio": (0, 1),
    "FakeVideo-RealAudio": (1, 0),
    "FakeVideo-FakeAudio": (1, 1),
}
HEADER = "source,target1,target2,method,category,type,race,gender,path,"


def rows(*, each: int = 50, part: float = 1.0) -> Iterator[tuple[str, ...]]:
    """The cells of meta_data.csv: 21,544 rows. each: people of a group; part: how much of the fake pictures."""
    random = np.random.default_rng(0)
    for g, (race, gender) in enumerate(GROUPS):
        people = [f"id{1000 * g + 7 * k + 10:05}" for k in range(each)]
        for person in people:
            yield _row((person, "-", "-"), "real", "RealVideo-RealAudio", (race, gender), "00109.mp4")
            yield _row((person, "-", "-"), "rtvc", "RealVideo-FakeAudio", (race, gender), "00109_fake.mp4")
        for kind, (clips, third, methods) in FAKE_PICTURES.items():
            for k in range(round(part * (clips // 10 + (g < clips % 10)))):
                source = people[k % each]
                one, two = random.choice([person for person in people if person != source], 2, replace=False)
                second = str(two) if random.random() < third else "-"
                name = f"00109_{k}_{one}_wavtolip.mp4"
                yield _row((source, str(one), second), methods[k % 3], kind, (race, gender), name)


def doubled(table: Sequence[tuple[str, ...]], most: int = 22) -> Iterator[tuple[str, ...]]:
    """The second rows of files that stand in two: another target, and all else the same."""
    people: dict[tuple[str, ...], set[str]] = {}
    for cells in table:
        people.setdefault(cells[6:8], set()).add(cells[0])
    found = [cells for cells in table if cells[3] == "faceswap-wav2lip"]
    for cells in found[:: max(1, len(found) // most)][:most]:
        source, one, *rest = cells
        yield source, min(people[cells[6:8]] - {source, one}), *rest


def _row(who: tuple[str, str, str], method: str, kind: str, group: tuple[str, str], name: str) -> tuple[str, ...]:
    folder = "/".join(("FakeAVCeleb", kind, *group, who[0]))
    return *who, method, "ABCD"[list(LABELS).index(kind)], kind, *group, name, folder


def as_clip(cells: tuple[str, ...]) -> Clip:
    """What the layout makes of a row."""
    source, one, two, method, _, kind, race, gender, name, folder = cells
    video, audio = LABELS[kind]
    path = f"{folder}/{name}"
    targets = ";".join(target for target in (one, two) if target != "-")
    return Clip(
        path, path, "FakeAVCeleb", source, source, targets, video, audio, int(bool(video or audio)),
        category_of(video, audio), method, "train", 1, group=f"{race} {gender}",
    )  # fmt: skip
