"""A check's result on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from cache_schemas.manifest import SPLITS, Clip, Unused
from pipeline.manifest.check import CLASSES, LABELS, LOUD_AUC, NUMBERS, counts, kept, people

_MOST_ROWS = 40
_MOST_VALUES = 3
_MOST_LETTERS = 16


def print_check(result: Mapping[str, Any], console: Console) -> None:
    """Counts, people, properties and what each gives away; the warnings last, where they are read."""
    console.print(_counts(result["counts"], result["kept"]))
    if lost := _lost(result["kept"]):
        console.print(lost, highlight=False)
    if result["groups"]:
        console.print(_groups(result["groups"]))
    console.print(_people(result["people"]))
    console.print(f"Identity: {escape(result['identity'])}.", highlight=False)
    if result["assumed"]:
        console.print(f"Assumed by the layout: {escape(result['assumed'])}.", highlight=False)
    for side, found in result["segments"].items():
        if found["clips"]:
            share = "" if found["fake_share"] is None else f", {found['fake_share']:.0%} of their seconds are fake"
            console.print(f"Fake {side} segments are known of {found['clips']} clips{share}.", highlight=False)
    console.print(f"{_seconds(result['seconds'])}.", highlight=False)
    console.print(_properties(result))
    console.print(
        "AUC: how well that one property tells fake from real (any fake; picture; sound), whichever way round; 0.5 "
        "knows nothing. Of a name: whether it is the value below it. "
        f"[bold red]!![/] above {LOUD_AUC:g} and above chance: a detector can look right without looking at a face.",
        highlight=False,
    )
    _print_leaks(result["leaks"], console)
    print_copies(result["duplicates"], console)
    console.print(_warnings(result["warnings"]))


def print_splits(clips: Sequence[Clip], unused: Sequence[Unused], path: str, console: Console) -> None:
    """How many clips and people each split of the manifest at `path` holds, and what no split holds."""
    console.print(f"{len(clips)} clips in {escape(path)}", soft_wrap=True)
    table = Table("split", "clips", "real", "fake", "subjects")
    for split, count in people(clips)["splits"].items():
        table.add_row(split, *(str(count[key]) for key in ("clips", "real_clips", "fake_clips", "subjects")))
    console.print(table, soft_wrap=False)
    of_all = kept(clips, unused)
    if lost := _lost(of_all):
        console.print(_counts(counts(clips), of_all), soft_wrap=False)
        console.print(lost, highlight=False)


def _lost(kept: Sequence[Mapping[str, Any]]) -> str:
    """What is in no split, in words; empty where all is in one."""
    used, there = (sum(entry[key] for entry in kept) for key in ("kept", "of"))
    if used == there:
        return ""
    parts = []
    for category in dict.fromkeys(entry["category"] for entry in kept):
        those = [entry for entry in kept if entry["category"] == category]
        parts.append(f"{category} {sum(e['kept'] for e in those)} of {sum(e['of'] for e in those)}")
    return (
        f"{there - used} of {there} clips are not used: their people are in different splits (manifest/unused.csv "
        f"lists them). Kept: {', '.join(parts)}."
    )


def _counts(counts: list[dict[str, Any]], kept: Sequence[Mapping[str, Any]]) -> Table:
    """With a column of what is kept where not all is."""
    splits = list(dict.fromkeys(entry["split"] for entry in counts))
    rows: dict[tuple[str, str], dict[str, int]] = {(entry["category"], entry["method"]): {} for entry in kept}
    shares = {(entry["category"], entry["method"]): f"{entry['kept'] / entry['of']:.0%}" for entry in kept}
    some = any(entry["kept"] < entry["of"] for entry in kept)
    for entry in counts:
        rows[entry["category"], entry["method"]][entry["split"]] = entry["clips"]
    table = Table("category", "method", *splits, *(["kept"] if some else []), title="Clips")
    ordered = sorted(rows.items(), key=lambda item: (item[0][0], -sum(item[1].values())))
    for (category, method), found in ordered[:_MOST_ROWS]:
        numbers = [str(found.get(split, 0)) for split in splits]
        table.add_row(category, escape(method), *numbers, *([shares[category, method]] if some else []))
    table.caption = _left_out(len(ordered))
    return table


def _left_out(rows: int) -> str | None:
    return f"and {rows - _MOST_ROWS} more: the JSON file has them all" if rows > _MOST_ROWS else None


def _groups(groups: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("group", "real", "fake", "subjects", *SPLITS, title="Groups")
    for entry in groups[:_MOST_ROWS]:
        numbers = [*(entry[key] for key in ("real_clips", "fake_clips", "subjects")), *entry["splits"].values()]
        table.add_row(escape(entry["group"]), *map(str, numbers))
    table.caption = _left_out(len(groups))
    return table


def _people(people: Mapping[str, Any]) -> Table:
    table = Table("split", "clips", "real", "fake", "subjects", "people", title="People")
    for split, count in people["splits"].items():
        table.add_row(split, *(str(count[key]) for key in ("clips", "real_clips", "fake_clips", "subjects", "people")))
    table.caption = (
        f"{people['unrelated_groups']} groups of people who share clips (the largest: {people['largest_group_clips']} "
        f"clips); {people['subjects_of_both_classes']} of {people['subjects']} subjects have both real and fake clips"
    )
    return table


def _seconds(found: Mapping[str, Any]) -> str:
    parts = [
        f"{of['used'] / of['seconds']:.0%} of the {of['seconds']:,.0f} s of {name} clips"
        for name, of in found.items()
        if of["seconds"]
    ]
    cut = sum(of["clips_cut"] for of in found.values())
    why = f"; {cut} clips would take more than windows.max_per_clip" if cut else ""
    return f"Windows take {' and '.join(parts) or 'nothing'}{why}"


def _properties(result: Mapping[str, Any]) -> Table:
    table = Table(title="Container and sound", caption="numbers: the median, and from the 5th to the 95th percentile")
    table.add_column("property", no_wrap=True)
    for name in ("real", "fake", "AUC any", "picture", "sound"):
        table.add_column(name)
    for entry in result["shortcuts"]:
        name = entry["property"]
        sides = [_described(name, result["properties"][name][side]) for side in CLASSES]
        if sides != ["-", "-"]:
            table.add_row(_title(entry), *sides, *(_auc(entry[label]) for label in LABELS))
    return table


def _title(entry: Mapping[str, Any]) -> str:
    name, found = entry["property"], entry["label"]
    best = max((entry[label] for label in LABELS), key=lambda each: each["auc"] or 0)
    lines = [f"[bold red]!! {name}[/]" if entry["suspicious"] else f"   {name}"]
    if "value" in best:
        lines.append(f"   {_short(best['value'])}")
    if found["known"] < found["clips"]:
        lines.append(f"   known for {found['known']} of {found['clips']}")
    return "\n".join(lines)


def _described(name: str, found: Mapping[str, Any]) -> str:
    if not found["known"]:
        return "-"
    if name in NUMBERS:
        return f"{_number(found['median'])}\n{_number(found['p5'])} to {_number(found['p95'])}"
    parts = [f"{_short(value)}: {number}" for value, number in list(found["values"].items())[:_MOST_VALUES]]
    more = found["different"] - len(parts)
    return "\n".join([*parts, f"and {more} more"] if more > 0 else parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(value: str) -> str:
    return escape(value if len(value) <= _MOST_LETTERS else f"{value[: _MOST_LETTERS - 3]}...")


def _auc(found: Mapping[str, Any]) -> str:
    return "-" if found["auc"] is None else f"{found['auc']:.2f}"


def _print_leaks(leaks: Mapping[str, Any], console: Console) -> None:
    titles = {"split": "People in more than one split", "official": "People in more than one official split"}
    for kind, title in titles.items():
        if leaks[kind]:
            table = Table("person", "clips", "as", title=title, title_style="bold red")
            for leak in leaks[kind][:_MOST_ROWS]:
                role = "subject in one at most" if leak["donor_only"] else "subject in several"
                table.add_row(escape(leak["person"]), ", ".join(f"{s}: {n}" for s, n in leak["clips"].items()), role)
            table.caption = _left_out(len(leaks[kind]))
            console.print(table)
        else:
            console.print(f"{title}: none.", highlight=False)


def print_copies(copies: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The files with the same content: which one is kept. Paths stand in lines of their own, whole."""
    if copies:
        console.print("[italic]The same content[/]")
    for copy in copies[:_MOST_ROWS]:
        kept = "[bold red]none: the labels contradict[/]" if copy["kept"] is None else escape(copy["kept"])
        for line in (f"kept {kept}", *(f"   dropped {escape(path)}" for path in copy["dropped"])):
            console.print(line, soft_wrap=True, highlight=False)


def _warnings(warnings: list[str]) -> Panel | str:
    if not warnings:
        return "[green]Nothing looks wrong.[/]"
    lines = Group(*(f"[bold red]•[/] {escape(text)}" for text in warnings))
    return Panel(lines, title=f"[bold red]{len(warnings)} warnings[/]", border_style="red", title_align="left")
