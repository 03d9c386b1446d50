"""`split.kind: people` on data of FakeAVCeleb's shape: who goes where, what it costs, and why it is there."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.manifest import (
    SPLITS,
    Clip,
    ManifestError,
    Unused,
    check_splits,
    find_leaks,
    read_manifest,
    read_unused,
)
from pipeline.cli import main
from pipeline.datasets import LAYOUTS
from pipeline.manifest.build import build_manifest
from pipeline.manifest.check import check
from pipeline.manifest.splits import assign_splits, identity_components
from pipeline.params import SplitParams, WindowParams
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params
from tests.pipeline.manifest.fakeavceleb_shape import HEADER, as_clip, rows
from tests.pipeline.manifest.test_check import FACTS, clip
from tests.pipeline.tiny import TinyClips

PEOPLE = SplitParams(kind="people")


@pytest.fixture(scope="module")
def fakeavceleb() -> list[Clip]:
    return [as_clip(cells) for cells in rows()]


@pytest.fixture(scope="module")
def dealt(fakeavceleb: list[Clip]) -> tuple[list[Clip], list[Unused]]:
    return assign_splits(fakeavceleb, PEOPLE, seed=0)


@pytest.fixture(scope="module")
def thinned() -> list[Clip]:
    """A tenth of the fake pictures."""
    return [as_clip(cells) for cells in rows(part=0.1)]


def checked(clips: Sequence[Clip], unused: Sequence[Unused] = (), kind: str = "subject") -> tuple[str, dict[str, Any]]:
    """(the warnings of a check, all of it)."""
    split = SplitParams.model_validate({"kind": kind})
    facts = {each.clip_id: FACTS for each in clips}
    result = check(clips, facts, [], unused=unused, split=split, windows=WindowParams(), layout=LAYOUTS["csv"])
    json.dumps(result, allow_nan=False)
    return " ".join(result["warnings"]), result


def test_the_made_up_table_has_the_published_shape(fakeavceleb: list[Clip]) -> None:
    assert Counter(c.category for c in fakeavceleb) == {"RVRA": 500, "RVFA": 500, "FVRA": 9709, "FVFA": 10835}
    groups = identity_components(fakeavceleb)
    assert len({c.path for c in fakeavceleb}) == 21544
    assert sorted(len({who for c in group for who in c.people}) for group in groups) == [50] * 10
    assert sorted(len({c.group for c in group}) for group in groups) == [1] * 10


def test_by_subject_it_is_split_by_demographics_and_the_check_says_so(thinned: list[Clip]) -> None:
    """Why there is another kind. One more clip that joins two groups, for each, and there is no split by subject."""
    used, _ = assign_splits(thinned, SplitParams(), seed=0)
    there = {split: {c.group for c in used if c.split == split} for split in SPLITS}
    assert sum(map(len, there.values())) == 10
    told, _ = checked(used)
    assert "of 10, 6 in train, 2 in val, 2 in test" in told
    assert "split.kind: people" in told
    crossing = [
        replace(first, clip_id=f"x{i}", target_id=thinned[0].subject_id)
        for i, (first, *_) in enumerate(identity_components(thinned))
    ]
    with pytest.raises(ManifestError, match=r"1 unrelated subjects cannot fill .*split\.kind: people parts them"):
        assign_splits([*thinned, *crossing], SplitParams(), seed=0)
    assign_splits([*thinned, *crossing], PEOPLE, seed=0)


def test_every_group_is_in_every_split_and_half_of_the_clips_are_kept(
    fakeavceleb: list[Clip], dealt: tuple[list[Clip], list[Unused]]
) -> None:
    used, unused = dealt
    assert find_leaks(used) == []
    for group in {c.group for c in fakeavceleb}:
        people = {split: {c.subject_id for c in used if (c.split, c.group) == (split, group)} for split in SPLITS}
        assert {split: len(who) for split, who in people.items()} == {"train": 30, "val": 10, "test": 10}
    count = Counter((c.split, c.category) for c in used)
    for category in ("RVRA", "RVFA"):
        assert [count[split, category] for split in SPLITS] == [300, 100, 100]
    # Drawn people alone keep 8,900, of them 650 fake pictures in test.
    assert len(used) > 9900
    for split in ("val", "test"):
        assert count[split, "FVRA"] > 450
        assert count[split, "FVFA"] > 380
    assert len(used) + len(unused) == 21544


group = st.sampled_from(["", "a", "b"])
person = st.integers(0, 11)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(group, min_size=12, max_size=12),
    st.lists(st.lists(person, min_size=1, max_size=4, unique=True), max_size=40),
    st.sampled_from([(0.2, 0.2), (0.25, 0.3), (0.34, 0.33)]),
    st.integers(0, 3),
)
def test_whoever_is_dealt(groups: list[str], casts: list[list[int]], shares: tuple[float, float], seed: int) -> None:
    """Nobody in two splits, no clip of two, the rest told, the shares of each group, whatever the rows' order."""
    val, test = shares
    alone = [clip(i, [f"p{i}"], group=of) for i, of in enumerate(groups)]  # always kept: they show where each is
    more = [
        clip(100 + i, [f"p{who}" for who in cast], fake=i % 2, group=groups[cast[0]]) for i, cast in enumerate(casts)
    ]
    split, clips = SplitParams(kind="people", val=val, test=test), alone + more
    used, unused = assign_splits(clips, split, seed=seed)
    assert find_leaks(used) == []
    check_splits(used)
    side = {c.subject_id: c.split for c in used[:12]}
    assert [c.clip_id for c in used] == [c.clip_id for c in clips if len({side[who] for who in c.people}) == 1]
    assert {c.clip_id for c in clips} - {c.clip_id for c in used} == {row.clip.clip_id for row in unused}
    for row in unused:
        assert all(f"{who} in {side[who]}" in row.reason for who in row.clip.people)
    for name in set(groups):
        for of, share in (("train", 1 - val - test), ("val", val), ("test", test)):
            there = sum(groups[i] == name and side[f"p{i}"] == of for i in range(12))
            assert abs(there - share * groups.count(name)) < 1
    shuffled = [clips[i] for i in np.random.default_rng(seed).permutation(len(clips))]
    again, rest = assign_splits(shuffled, split, seed=seed)
    assert sorted(again, key=str) == sorted(used, key=str)
    assert sorted(rest, key=str) == sorted(unused, key=str)


def test_the_seed_deals_others() -> None:
    clips = [clip(i, [f"p{i}"]) for i in range(40)]
    first, second = (assign_splits(clips, PEOPLE, seed=seed)[0] for seed in (0, 1))
    assert [c.split for c in first] != [c.split for c in second]


@pytest.mark.parametrize("size", [1, 2])
def test_small_groups_even_each_other_out(size: int) -> None:
    clips = [clip(i, [f"p{i}"], group=f"g{i // size}") for i in range(40)]
    used, _ = assign_splits(clips, PEOPLE, seed=0)
    assert Counter(c.split for c in used) == {"train": 24, "val": 8, "test": 8}


def test_a_share_that_is_whole_is_met_exactly() -> None:
    """1 - 0.1 - 0.3 is a little more than 0.6: that is no fraction of a person to round up."""
    clips = [clip(i, [f"p{i}"], group="first" if i < 9 else "second") for i in range(14)]
    used, _ = assign_splits(clips, SplitParams(kind="people", val=0.1, test=0.3), seed=0)
    assert sum(c.split == "train" for c in used if c.group == "second") == 3


def test_people_with_real_clips_and_donors_are_shared_out_alike() -> None:
    """Half of the people occur in fakes of others only; a tenth has most of the real clips."""
    chance = np.random.default_rng(0)
    owners, donors = ([f"{kind}{i}" for i in range(60)] for kind in ("owner", "donor"))
    cast = [[who] for i, who in enumerate(owners) for _ in range(20 if i % 10 == 0 else 2)]
    clips = [clip(i, who) for i, who in enumerate(cast)]
    clips += [clip(1000 + i, [chance.choice(owners), chance.choice(donors)], fake=1) for i in range(1200)]
    used, unused = assign_splits(clips, PEOPLE, seed=0)
    real = Counter(c.split for c in used if not c.label)
    assert sum(real.values()) == len(cast)
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert real[split] / len(cast) == pytest.approx(share, abs=0.04)
        assert sum(c.split == split and c.label for c in used) > 0.06 * 1200  # drawn: 0.04
    assert len(unused) < 0.5 * 1200  # drawn: 0.56


@pytest.mark.parametrize(
    ("casts", "message"),
    [
        ([["a"], ["b"]], "2 people cannot fill train, val, test"),
        ([["a"], ["b"], ["c"]], r"no clip is left for (val|test): 0 of 3 people go there"),
        (
            [["hub", f"p{i}"] for i in range(10)],
            r"no clip is left for val and test: 4 of 11 people go there, and \d of 10 .*split\.kind: subject",
        ),
    ],
)
def test_a_split_that_would_be_empty_is_said(casts: list[list[str]], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        assign_splits([clip(i, cast) for i, cast in enumerate(casts)], PEOPLE, seed=0)


def test_published_splits_by_owner_leak_by_their_donors(thinned: list[Clip]) -> None:
    """Folders' owners are in one split each; most test fakes have a donor who occurs in train."""
    owners = sorted({c.subject_id for c in thinned})
    split_of = {owner: ("train", "train", "train", "val", "test")[i % 5] for i, owner in enumerate(owners)}
    published = [replace(c, official_split=split_of[c.subject_id]) for c in thinned]
    used, unused = assign_splits(published, SplitParams(kind="official"), seed=0)
    leaks = find_leaks(used)
    assert all(leak.donor_only for leak in leaks)
    told, result = checked(used, unused, "official")
    assert f"The splits LEAK: {len(leaks)} people stand in more than one" in told
    assert f"{len(leaks)} of them are the subject in one split at most, elsewhere source or target" in told
    test = [c for c in used if c.split == "test"]
    trained = {who for c in used if c.split == "train" for who in c.people}
    seen = [c for c in test if c.people & trained]
    assert len(seen) > 0.95 * len(test)
    assert result["seen_in_train"]["split"]["test"] == {"clips": len(seen), "of": len(test)}
    assert f" and {len(seen)} of {len(test)} test clips" in told
    # In splits of one's own the published ones are still judged, by all clips, used or not.
    told, _ = checked(*assign_splits(published, PEOPLE, seed=0), "people")
    assert f"The official splits LEAK: {len(leaks)} people" in told
    assert "demographic" not in told


def test_a_subject_of_two_splits_is_told_from_a_donor() -> None:
    clips = [
        clip(0, ["both"], split="train"),
        clip(1, ["both"], split="test"),
        clip(2, ["donor"], split="train"),
        clip(3, ["other", "donor"], split="test", fake=1),
        clip(4, ["someone", "stranger"], split="val"),
        clip(5, ["else", "stranger"], split="test"),
    ]
    assert {leak.person: leak.donor_only for leak in find_leaks(clips)} == {
        "both": False, "donor": True, "stranger": True,
    }  # fmt: skip
    told, result = checked([replace(each, split_kind="official") for each in clips], kind="official")
    assert "train and test share 2 (1 as donors only) in 4 clips; val and test share 1 (1 as donors only)" in told
    assert result["leaks_between"]["split"] == [
        {"splits": ["train", "test"], "people": 2, "donors": 1, "clips": 4},
        {"splits": ["val", "test"], "people": 1, "donors": 1, "clips": 2},
    ]
    assert "2 of them are the subject in one split at most" in told
    assert "Somebody of train is in 0 of 1 val clips and 2 of 3 test clips." in told


def test_the_command_lists_what_is_unused_and_measures_none_of_it(
    tmp_path: Path, tiny: TinyClips, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    table = list(rows(each=4, part=0.003))
    for cells in table:
        tiny.put(tmp_path / "data" / cells[-1].partition("/")[2] / cells[-2], fake=cells[3] != "real")
    (tmp_path / "data" / "meta_data.csv").write_text("\n".join([HEADER, *map(",".join, table)]) + "\n")
    (tmp_path / "params.yaml").write_text("{max_failed_fraction: 0.0, compute: {workers: 2}}")
    monkeypatch.chdir(tmp_path)

    def bmnas(*options: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["bmnas", "manifest", "--layout", "fakeavceleb", "--root", "data", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return tuple(" ".join(text.split()) for text in capfd.readouterr())  # type: ignore[return-value]

    _, err = bmnas("--split", "people")
    workspace = Workspace(tmp_path / "work")
    used, unused = read_manifest(workspace.manifest), read_unused(workspace.unused)
    assert {c.split_kind for c in used} == {"people"}
    assert len(used) + len(unused) == len(table) == 80 + 60
    assert f"{len(unused)} of 140 clips are not used" in err
    assert "Kept: FVFA " in err
    assert "RVFA 40 of 40, RVRA 40 of 40." in err
    assert "100%" in err
    with workspace.unused.open(newline="") as file:
        assert all("its people are in different splits: id" in row["reason"] for row in csv.DictReader(file))
    out, _ = bmnas("--split", "people", "--check")
    assert f"{len(unused)} of 140 clips are not used" in out
    result = json.loads((workspace.check / "manifest.json").read_text())
    assert sum(entry["kept"] for entry in result["kept"]) == len(used) == result["clips"]
    assert sum(entry["of"] for entry in result["kept"]) == 140
    assert result["left_out"]["files"] == 0
    assert len((workspace.check / "facts.jsonl").read_text().splitlines()) == len(used)
    # Of another kind of split nothing is left over.
    params = small_params(tmp_path / "data", data={"root": "data", "layout": "fakeavceleb"})
    assert len(build_manifest(workspace, params)) == 140
    assert read_unused(workspace.unused) == []
