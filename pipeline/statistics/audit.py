"""Does anything make a figure look better than it is? Each check answers in words, with its figures.

A finding is {"check", "found", "says"}: `found` only where the data show it; of what cannot be looked at, `says` begins
with "not checked" and tells why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cache_schemas.manifest import Leak, leaks_between
from cache_schemas.run import RetrainEntry
from pipeline.statistics import metrics
from pipeline.statistics.metrics import UndefinedMetricError
from pipeline.statistics.people import draw_people, drawn_metrics, interval
from pipeline.statistics.shortcuts import SHORTCUT_AUC, SHORTCUTS, chance_auc, shortcut_auc
from pipeline.statistics.strength import signed
from pipeline.statistics.systems import FUSION, RANDOM_WEIGHTS

Finding = dict[str, Any]

_PROPERTIES = {
    "leading silence": ("leading_silence_s",),
    "resolution": ("width_px", "height_px"),
    "other properties": ("duration_s", "fps", "file_bytes", "loudness_db"),
}
_OF_SOUND = frozenset({"leading_silence_s", "loudness_db"})
_OF_FEW_VALUES = frozenset({"width_px", "height_px", "fps"})
_MOST_VALUES = 10
_SURELY = 2.0
"""`chance_auc`, which 1 of 20 ignorant columns passes, so many times as far from 0.5: 1 of 10,000 passes that, and a
hundred looks are taken. In few clips only gross shortcuts are named."""
_SURE = 0.999
"""Of the interval that lies above chance: at 95 %, 1 of 40 controls would that knows nothing."""
_SAME_SCORE, _SAME_AUC, _SAME_LOSS = 1e-4, 0.005, 0.01
"""How far batches and another device may move a score, a val AUC beyond that, and a val loss (its share)."""
_TOO_SURE = 1e-6
"""A wrong score so near to 0 or 1 is rounded: it no longer says how large its loss is."""
_MOST_NAMES = 5
TRIMMED = "; windows begin behind it, so that no network hears it"


def _finding(check: str, found: bool, says: str) -> Finding:
    return {"check": check, "found": found, "says": says}


def _not_checked(check: str, why: str) -> Finding:
    return _finding(check, False, f"not checked: {why}")


def check_properties(clips: pd.DataFrame, *, trimmed: bool) -> list[Finding]:
    """Whether a property of the file, alone, tells fake from real: one finding each of silence, resolution, the others.

    clips: all of them, with category, label and the properties; trimmed: windows begin behind the leading silence.
    """
    found = []
    for check, names in _PROPERTIES.items():
        told = [each for name in names for each in _told(clips, name)]
        best = max(told, key=lambda each: (each["auc"] > each["limit"], each["auc"]), default=None)
        if best is None:
            found.append(_not_checked(check, "it is known for no clip, or there is one class only"))
            continue
        tells = best["auc"] > best["limit"]
        says = (
            f"{SHORTCUTS[best['name']]} alone tells {best['side']} from real with an AUC of {best['auc']:.2f} "
            f"({best['clips']} clips; a finding begins above {best['limit']:.2f})"
        )
        if tells:
            says += ": a detector that sees nothing else looks right on these clips"
            if check == "leading silence" and trimmed:
                says += TRIMMED
        found.append(_finding(check, tells, says))
    return found


def _told(clips: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """How well a property tells any fake, fake pictures and fake sound: {name, side, auc, clips, limit}."""
    heard = clips[clips["category"].str.len() == len("RVRA")]  # RV- has no sound
    sides = {
        "fake": clips,
        "fake pictures": clips.assign(label=clips["category"].str[0].eq("F").astype(int)),
        "fake sound": heard.assign(label=heard["category"].str[2].eq("F").astype(int)),
    }
    if name in _OF_SOUND:
        sides = {side: table.loc[table.index.intersection(heard.index)] for side, table in sides.items()}
    found = []
    for side, table in sides.items():
        auc, chance = _auc(table, name), chance_auc(table)
        if auc is not None and chance is not None:
            limit = max(SHORTCUT_AUC, 0.5 + _SURELY * (chance - 0.5))
            found.append({"name": name, "side": side, "auc": auc, "clips": len(table), "limit": limit})
    return found


def _auc(table: pd.DataFrame, name: str) -> float | None:
    """Of a property with few values, the best of its order and of each value's being there: any may be the fakes'."""
    aucs = [shortcut_auc(table, name)["auc"]]
    if name in _OF_FEW_VALUES:
        for value in table[name].value_counts().head(_MOST_VALUES).index:
            aucs.append(shortcut_auc(table.assign(is_it=(table[name] == value).astype(float)), "is_it")["auc"])
    return max((auc for auc in aucs if auc is not None), default=None)


def check_people(leaks: Sequence[Leak], *, official: bool, donors_named: bool) -> list[Finding]:
    """Whether somebody stands in two splits: as the subject of clips, and as source or target only.

    official: the splits are the data set's authors'; donors_named: some clip says whose face or voice was put in.
    """
    who = "official split: " if official else ""
    donors, subjects = ([leak for leak in leaks if leak.donor_only is only] for only in (True, False))
    found = [
        _finding(
            "a person in two splits",
            bool(subjects),
            f"{who}{_leaked(subjects, 'people are the subject of clips in two splits')}"
            if subjects
            else "nobody is the subject of clips in two splits",
        )
    ]
    check = "a donor in two splits"
    if not donors_named:
        return [*found, _not_checked(check, "no clip says whose face or voice was put in (source_id, target_id)")]
    says = (
        f"{who}{_leaked(donors, 'donors leak: they give face or voice to clips of a split they are no subject of')}"
        if donors
        else "no donor of a face or a voice stands in two splits"
    )
    return [*found, _finding(check, bool(donors), says)]


def _leaked(leaks: Sequence[Leak], what: str) -> str:
    pairs = (f"{n['people']} in {one} and {other}" for (one, other), n in leaks_between(leaks).items())
    names = ", ".join(leak.person for leak in leaks[:_MOST_NAMES]) + (", ..." if len(leaks) > _MOST_NAMES else "")
    return f"{len(leaks)} {what} ({'; '.join(pairs)}): {names}; what is learnt of them can pass for skill"


def check_epochs(entries: Sequence[RetrainEntry], val: Mapping[tuple[str, int], pd.DataFrame], why_not: str) -> Finding:
    """Whether each network's weights are those of the epoch that its val curve says is best.

    val: {(network, seed): its val windows, with label, weight (that of the class in the loss) and score}, empty where
    they cannot be compared, for what `why_not` says.
    """
    check = "epoch chosen on test"
    wrong = [text for entry in entries if (text := _wrong_epoch(entry) or _not_again(entry, val))]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return _finding(check, True, f"{wrong[0]}{more}: its epoch was chosen by something else than val")
    says = f"the epochs of {len(entries)} networks are the best of their val curves"
    if not val:
        return _finding(check, False, f"{says}; not checked: whether the weights are of those epochs: {why_not}")
    return _finding(check, False, f"{says}, and the weights give val's figures again")


def _wrong_epoch(entry: RetrainEntry) -> str:
    """Why an entry's curve does not lead to its epoch: the highest val AUC, of equal ones the least loss; or ""."""
    name = f"{entry.network}, seed {entry.seed}"
    if not entry.curves:
        return f"{name}: its curve is empty"
    looked = sorted({key for row in entry.curves for key in row if key.startswith("test")})
    if looked:
        return f"{name}: its curve holds {looked[0]}"
    best = max(range(len(entry.curves)), key=lambda epoch: _reached(entry.curves[epoch]))
    if best == entry.best_epoch:
        return ""
    kept = entry.curves[entry.best_epoch] if 0 <= entry.best_epoch < len(entry.curves) else {}
    return (
        f"{name}: epoch {entry.best_epoch} was kept (val AUC {_number(kept.get('val_auc'))}), and val's best is epoch "
        f"{best} ({_number(entry.curves[best].get('val_auc'))})"
    )


def _reached(row: Mapping[str, float | None]) -> tuple[float, float]:
    auc, loss = row.get("val_auc"), row.get("val_loss")
    return (-np.inf if auc is None else auc, -np.inf if loss is None else -loss)


def _not_again(entry: RetrainEntry, val: Mapping[tuple[str, int], pd.DataFrame]) -> str:
    """How val's figures differ from those that the curve says of the epoch that was kept; or ""."""
    windows = val.get((entry.network, entry.seed))
    if windows is None:
        return ""
    labels, scores = windows["label"].to_numpy(int), windows["score"].to_numpy(float)
    row, ranges = entry.curves[entry.best_epoch], {}
    try:
        # Scores that are nearly equal may stand in either order.
        low, high = (metrics.auc(labels, scores + moved * labels) for moved in (-_SAME_SCORE, _SAME_SCORE))
        ranges["val_auc"] = (low - _SAME_AUC, high + _SAME_AUC)
    except UndefinedMetricError:
        return ""
    told = np.where(labels == 1, scores, 1 - scores)
    if told.min() > _TOO_SURE:
        loss = float((windows["weight"].to_numpy(float) * -np.log(told)).mean())
        slack = _SAME_LOSS * max(loss, 0.1)
        ranges["val_loss"] = (loss - slack, loss + slack)
    for name, (low, high) in ranges.items():
        said = row.get(name)
        if said is not None and not low <= said <= high:
            return (
                f"{entry.network}, seed {entry.seed}: its weights give a {name} of {(low + high) / 2:.3f}, and the "
                f"curve says {said:.3f} of epoch {entry.best_epoch}, which they should be of"
            )
    return ""


def check_random_weights(clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int) -> Finding:
    """Whether features of networks that learnt nothing tell fake from real, too.

    clips: by clip_id, with label and subject_id; scores: the test windows', with system and score; seed: that of the
    draws of people. Found where random weights are surely above chance, and either far above it (as a shortcut is) or
    no worse than fusion, by the 95 % interval of the paired difference.
    """
    check = "random weights score"
    mean = scores.groupby(["system", "clip_id"], sort=False)["score"].mean()
    if not {RANDOM_WEIGHTS, FUSION} <= set(mean.index.get_level_values("system")):
        return _not_checked(check, "there are no scores of random weights: the control's features are not in the cache")
    mine, theirs = mean.loc[RANDOM_WEIGHTS], mean.loc[FUSION]
    about = clips.loc[mine.index]
    labels = about["label"].to_numpy(int)
    try:
        draws = draw_people(about["subject_id"], seed=seed)
        random, fusion = (
            (metrics.auc(labels, each), drawn_metrics(labels, each, draws)["auc"])
            for each in (mine.to_numpy(), theirs.loc[mine.index].to_numpy())
        )
        low, added = interval(random[1], level=_SURE).low, interval(fusion[1] - random[1])
    except UndefinedMetricError as error:
        return _not_checked(check, str(error))
    scoring = low > 0.5 and (random[0] > SHORTCUT_AUC or added.low <= 0)
    lead, least, most = (signed(x, 3) for x in (fusion[0] - random[0], added.low, added.high))
    says = (
        f"random weights reach an AUC of {random[0]:.3f} (at least {low:.3f}, {_SURE:.1%} sure), fusion "
        f"{fusion[0]:.3f}: it adds {lead} ({least} to {most})"
    )
    if scoring:
        says += "; what tells fake from real here can be read without anything learnt of faces or voices"
    return _finding(check, scoring, says)


def check_files(clips: pd.DataFrame, windows: pd.DataFrame) -> Finding:
    """Whether one file, or one content, stands in two splits.

    clips: clip_id, split, path and audio_path of each ("": no such file); windows: split, path and pictures (what names
    the features of a window's pictures: equal only where the pictures are, in a copy in another container, too).
    """
    check = "one file in two splits"
    named = pd.concat([clips[["split", name]].set_axis(["split", "file"], axis=1) for name in ("path", "audio_path")])
    named = named[named["file"] != ""]
    for what, table, name in (("files", named, "file"), ("contents", clips, "clip_id")):
        splits = table.groupby(name, sort=False)["split"].unique()
        shared = splits[splits.map(len) > 1]
        if len(shared):
            first = f"{shared.index[0]} in {' and '.join(shared.iloc[0])}"
            return _finding(check, True, f"{len(shared)} {what} stand in two splits or more: {first}")
    twins = windows[windows.groupby("pictures")["split"].transform("nunique") > 1]
    if len(twins):
        first = twins[twins["pictures"] == twins["pictures"].iloc[0]].drop_duplicates("split")
        where = " and ".join(f"{path} ({split})" for path, split in zip(first["path"], first["split"], strict=True))
        says = (
            f"the pictures of {twins['path'].nunique()} clips are, to the bit, those of clips in another split: {where}"
        )
        return _finding(check, True, says)
    return _finding(check, False, f"the files and pictures of {len(clips)} clips stand in one split each")


def check_trained(index: pd.DataFrame, *, trained_on: str, identity: str) -> Finding:
    """Whether windows of a test clip were learnt from. index: clip_id, path and split of every window of the cache.

    trained_on, identity: the cache that the networks were trained on, and the one that they are tested on.
    """
    check = "test clips among train"
    if trained_on != identity:
        known = "of other windows or splits" if trained_on else "that nobody wrote down"
        return _not_checked(check, f"the networks were trained on a cache {known}: any test clip may have been in it")
    trained = set(index.loc[index["split"] != "test", "clip_id"])
    test = index[index["split"] == "test"].drop_duplicates("clip_id")
    both = test.loc[test["clip_id"].isin(trained), "path"]
    if len(both):
        says = f"{len(both)} of {len(test)} test clips have windows in train or val, the first is {both.iloc[0]}"
        return _finding(check, True, says)
    return _finding(check, False, f"none of {len(test)} test clips has a window in train or val")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
