"""What in a check's result deserves a warning, in words that a newcomer understands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.params import SplitParams
from pipeline.statistics.measure import why_small

_LARGE_GROUP = 0.5
_ONE_SIDED = 10
_OFF_SHARE = 0.1
_BOTH_CLASSES = 0.5
_SIDES = {
    "label": "fake from real clips",
    "video_label": "fake from real pictures",
    "audio_label": "fake from real sound",
}


def warnings(result: Mapping[str, Any], split: SplitParams) -> list[str]:
    """One sentence or two for each thing that is wrong or looks wrong, the gravest kind first."""
    kinds = (_leaks(result), _shortcuts(result), _copies(result), _unusable(result), _segments(result))
    found = [text for kind in kinds for text in kind]
    return [*found, *_splits(result, split), *_groups(result, split), *_people(result, split)]


def _leaks(result: Mapping[str, Any]) -> Iterator[str]:
    for kind, what in (("split", "The splits"), ("official", "The official splits")):
        leaks = result["leaks"][kind]
        if leaks and not (kind == "official" and leaks == result["leaks"]["split"]):
            clips = sum(sum(leak["clips"].values()) for leak in leaks)
            first = ", ".join(f"{leak['person']} in {' and '.join(leak['clips'])}" for leak in leaks[:5])
            more = ", ..." if len(leaks) > 5 else ""
            yield (
                f"{what} LEAK: {len(leaks)} people stand in more than one, in {clips} clips ({first}{more}). "
                f"{sum(leak['donor_only'] for leak in leaks)} of them are the subject in one split at most, elsewhere "
                f"source or target. {_between(result['leaks_between'][kind])}. Somebody of train is in "
                f"{_seen(result['seen_in_train'][kind])}."
            )


def _between(pairs: Sequence[Mapping[str, Any]]) -> str:
    shown = (
        f"{' and '.join(pair['splits'])} share {pair['people']} ({pair['donors']} as donors only) in "
        f"{pair['clips']} clips"
        for pair in pairs
    )
    return "; ".join(shown)


def _seen(found: Mapping[str, Mapping[str, int]]) -> str:
    return " and ".join(f"{n['clips']} of {n['of']} {split} clips" for split, n in found.items() if n["of"])


def _shortcuts(result: Mapping[str, Any]) -> Iterator[str]:
    """One sentence a side: which properties tell most there."""
    for label, side in _SIDES.items():
        found = [entry for entry in result["shortcuts"] if entry["suspicious"] and _best(entry) == label]
        if found:
            shown = (f"{entry['property']}{_value(entry[label])} {entry[label]['auc']:.2f}" for entry in found)
            chance = found[0][label]["chance"]
            yield f"Tell {side} alone, as AUC: {', '.join(shown)}. Chance stays below {chance:.2f}."


def _best(entry: Mapping[str, Any]) -> str:
    return max(_SIDES, key=lambda side: entry[side]["auc"] or 0)


def _value(found: Mapping[str, Any]) -> str:
    return f" ({found['value']})" if "value" in found else ""


def _copies(result: Mapping[str, Any]) -> Iterator[str]:
    copies = result["duplicates"]
    against = sum(copy["kept"] is None for copy in copies)
    if copies:
        dropped = sum(len(copy["dropped"]) for copy in copies)
        yield f"{dropped} files are dropped as copies ({len(copies)} different contents)."
    if against:
        yield f"The labels of {against} contents CONTRADICT each other: the same bytes are called real and fake."


def _unusable(result: Mapping[str, Any]) -> Iterator[str]:
    kinds = (
        ("entries", "entries of the data set are no clips"),
        ("clips", "clips cannot be decoded"),
        ("sound", "clips have no sound that can be used"),
    )
    for kind, what in kinds:
        reasons = result["unusable"][kind]
        if reasons:
            first, number = next(iter(reasons.items()))
            yield f"{sum(reasons.values())} {what}; the most frequent reason ({number}): {first}."
    if result["left_out"]["files"]:
        first = result["left_out"]["first"][0]
        yield f"{result['left_out']['files']} files lie there that no entry of the data set names, as {first}."


def _segments(result: Mapping[str, Any]) -> Iterator[str]:
    for side, found in result["segments"].items():
        if found["beyond_end"]:
            yield (
                f"Fake {side} segments of {found['beyond_end']} clips end after the clip: the seconds may be of "
                "another clock."
            )


def _splits(result: Mapping[str, Any], split: SplitParams) -> Iterator[str]:
    per_split, total = result["people"]["splits"], max(result["clips"], 1)
    wanted = {"train": 1 - split.val - split.test, "val": split.val, "test": split.test}
    everywhere = {entry["category"] for entry in result["counts"]}
    for name, count in per_split.items():
        lacking = everywhere - {entry["category"] for entry in result["counts"] if entry["split"] == name}
        if lacking:
            yield f"The {name} split lacks {', '.join(sorted(lacking))} clips."
        share = count["clips"] / total
        if split.kind == "subject" and abs(share - wanted[name]) > _OFF_SHARE:
            yield (
                f"The {name} split holds {share:.0%} of the clips, not {wanted[name]:.0%}: people who share clips "
                "stay together, and a category of few clips cannot be in all."
            )
    real, fake = (sum(count[key] for count in per_split.values()) for key in ("real_clips", "fake_clips"))
    if max(real, fake) > _ONE_SIDED * min(real, fake):
        yield f"{real} real and {fake} fake clips: accuracy means nothing here, read AUC, EER and balanced accuracy."
    if small := why_small(per_split["test"]):
        yield small


def _groups(result: Mapping[str, Any], split: SplitParams) -> Iterator[str]:
    """Whether splits that could hold each group do not."""
    large = [entry["splits"] for entry in result["groups"] if entry["subjects"] >= len(entry["splits"])]
    there = {name: sum(splits[name] > 0 for splits in large) for name in (large[0] if large else ())}
    if split.kind != "people" and any(number < len(large) for number in there.values()):
        shown = ", ".join(f"{number} in {name}" for name, number in there.items())
        yield (
            f"The splits part the demographic groups: of {len(large)}, {shown}. What is learnt of some people is "
            "measured on people of another kind; split.kind: people deals the people of every group."
        )


def _people(result: Mapping[str, Any], split: SplitParams) -> Iterator[str]:
    who = result["people"]
    if split.kind == "subject" and result["clips"] and who["largest_group_clips"] > _LARGE_GROUP * result["clips"]:
        yield (
            f"One group of people who share clips holds {who['largest_group_clips']} of {result['clips']} clips: it "
            "must lie in one split, so the splits are uneven."
        )
    if who["subjects_of_both_classes"] < _BOTH_CLASSES * who["subjects"]:
        yield (
            f"Only {who['subjects_of_both_classes']} of {who['subjects']} subjects have both real and fake clips: who "
            "is seen tells much of the label."
        )
