"""The page: from plain data to the text of one HTML file that asks nobody for anything."""

from __future__ import annotations

import base64
import functools
import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from cache_schemas.paths import path_text, plain_text
from pipeline import figures, report
from pipeline.detector.page import pictures, timeline
from pipeline.detector.page.shown import About, Shown
from pipeline.detector.prediction import Person, Prediction
from pipeline.statistics.answers import Answer
from pipeline.statistics.strength import signed

WHOSE = {"fusion": "Picture and sound", "visual": "Picture alone", "audio": "Sound alone"}
_TEMPLATES, _REPORT = (Path(str(at)).parent / "templates" for at in (__file__, report.__file__))
_STYLES = (Path(str(figures.__file__)).with_name("palette.css"), _REPORT / "page.css", _TEMPLATES / "answer.css")
_MOST_WINDOWS, _MOST_FACES = 12, 16
"""So many windows' faces are shown, and so many pictures of them together."""
_MOST_PEOPLE = 20
_BASE_RATES = (2, 10, 100, 10_000)
_SIGNED = str.maketrans("-", "\N{MINUS SIGN}")


def page(prediction: Prediction, shown: Shown, about: About) -> str:
    """The page of one file. Whatever is said in words that are not ours is text in it, and can be printed."""
    claim, answer, reasons = about.claims.get("fusion"), prediction.answer, _reasons(prediction)
    drawn = timeline.draw(
        prediction.windows,
        prediction.explanation.moments if prediction.explanation else (),
        window_s=about.window_s,
        threshold=claim.threshold if claim and answer.log10_lr is not None else None,
        film=shown.film,
    )
    film = shown.film
    content = {
        "of": prediction,
        "path": path_text(prediction.path),
        "file": shown.name or path_text(Path(prediction.path).name) or path_text(prediction.path),
        "shown": shown,
        "about": about,
        "claim": claim,
        "answers": {"fusion": answer, **prediction.modalities},
        "strength": _strength(answer),
        "at_most": {side: _times(value) for side, value in zip(("real", "fake"), answer.limits or (), strict=False)},
        "scale": _scale(answer),
        "rates": _rates(answer),
        "timeline": drawn,
        "flagged": timeline.flagged_spans(drawn),
        "film": film and pictures.data_uri("video/mp4", film.mp4),
        "captions": film and pictures.data_uri("text/vtt", timeline.captions(drawn, film).encode()),
        "strips": _strips(prediction, shown),
        "spectrum": shown.spectrum and pictures.spectrum(shown.spectrum.power),
        "people": sorted(prediction.people, key=_against)[:_MOST_PEOPLE],
        "reasons": reasons,
        "most": max((abs(effect) for rows in reasons.values() for _, effect in rows), default=0.0),
        "command": shlex.join(["bmnas", "predict", *about.options, "--", prediction.path]),
    }
    return _environment().get_template("answer.html.j2").render(content | {"contents": _contents(prediction, shown)})


def policy() -> str:
    """What a browser may do with a page: run its one script, use its one style, show what lies in it; no more."""
    return (
        f"default-src 'none'; script-src '{_digest(_script())}'; style-src '{_digest(_style())}'; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _environment() -> jinja2.Environment:
    folders = [_TEMPLATES, _REPORT]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain_text(value) if type(value) is str else value,
    )
    environment.filters |= {"clock": timeline.clock, "signed": _signed, "share": _share}
    environment.tests["mapping"] = lambda value: isinstance(value, Mapping)
    # Our own texts, whose digests are in the policy.
    environment.globals |= {
        "policy": policy(), "style": Markup(_style()), "scripts": [Markup(_script())], "WHOSE": WHOSE,  # noqa: S704
        "SCORES_PX": timeline.SCORES_PX, "EFFECTS_PX": timeline.EFFECTS_PX,
    }  # fmt: skip
    return environment


@functools.cache
def _style() -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in _STYLES)


@functools.cache
def _script() -> str:
    return (_TEMPLATES / "player.js").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _contents(prediction: Prediction, shown: Shown) -> list[tuple[str, str]]:
    scored = prediction.score is not None
    found = {
        "answer": ("Answer", True),
        "when": ("When", bool(scored or shown.film)),
        "seen": ("What it saw and heard", bool(shown.faces or shown.spectrum)),
        "why": ("What the score hangs on", prediction.explanation is not None),
        "people": ("Other faces", bool(prediction.people)),
        "input": ("Quality of the file", bool(prediction.quality or prediction.quantities)),
        "limits": ("What it does not say", True),
        "detector": ("The detector", True),
        "again": ("How to reproduce", True),
    }
    return [(name, title) for name, (title, there) in found.items() if there]


def _strength(answer: Answer) -> str:
    """How strong the evidence is, in a sentence; "" where it cannot tell."""
    if answer.log10_lr is None:
        return ""
    if abs(answer.log10_lr) < np.log10(1.05):
        return "A score like this is as probable of a fake as of a real clip."
    one, other = ("a fake", "a real clip")[:: 1 if answer.log10_lr > 0 else -1]
    return f"A score like this is about {_times(answer.log10_lr)} times as probable of {one} as of {other}."


def _times(log10_lr: float) -> str:
    """10^|log10_lr| in two digits: "1.5", "29", "4,300" """
    factor = 10 ** abs(log10_lr)
    if factor < 10:
        return f"{factor:.2g}"
    digits = int(np.floor(np.log10(factor))) - 1
    return f"{round(factor, -digits):,.0f}"


def _scale(answer: Answer) -> dict[str, Any] | None:
    """Where on an axis of log10 LR the answer and its limits lie, in percent of its width."""
    if answer.log10_lr is None or answer.limits is None:
        return None
    end = float(max(2, np.ceil(np.max(np.abs(answer.limits)))))

    def place(value: float) -> float:
        return round(50 + 44 * value / end, 2)

    low, high = map(place, answer.limits)
    step = max(1, int(end // 3))
    ticks = [(place(value), value) for value in range(-int(end), int(end) + 1) if value % step == 0]
    return {"low": low, "width": round(high - low, 2), "at": place(answer.log10_lr), "ticks": ticks}


def _rates(answer: Answer) -> list[tuple[int, float]]:
    """(one clip of so many is fake, P(fake) then)"""
    if answer.log10_lr is None:
        return []
    return [(of, float(1 / (1 + (of - 1) * np.power(10.0, -answer.log10_lr)))) for of in _BASE_RATES]


def _strips(prediction: Prediction, shown: Shown) -> list[dict[str, Any]]:
    """Of each window whose faces are shown, when it is, its score and its pictures."""
    scores = {window.start_s: window.score for window in prediction.windows}
    chosen = shown.faces[:_MOST_WINDOWS]
    each = max(1, _MOST_FACES // max(1, len(chosen)))
    return [
        {"start_s": of.start_s, "score": scores.get(of.start_s), "faces": pictures.faces(of.crops, min(each, 8))}
        for of in chosen
    ]


def _against(person: Person) -> float:
    """Sorts by what speaks for a fake; those of whom nothing can be said come last."""
    return np.inf if person.answer.log10_lr is None else -person.answer.log10_lr


def _reasons(prediction: Prediction) -> dict[str, list[tuple[str, float]]]:
    """What the score hangs on, by kind, the most first."""
    found = prediction.explanation
    if found is None:
        return {}

    def ordered(effects: Mapping[str, float]) -> list[tuple[str, float]]:
        return sorted(effects.items(), key=lambda item: -abs(item[1]))

    bands = [(f"{band.low_hz:.0f} to {band.high_hz:.0f} Hz", band.effect) for band in found.bands[::-1]]
    kinds = {"regions": ordered(found.regions), "bands": bands, "layers": ordered(found.layers)}
    return {name: rows for name, rows in kinds.items() if rows}


def _signed(value: float) -> str:
    return signed(value).translate(_SIGNED)


def _share(value: float) -> str:
    """A probability as a percentage in two digits: "97 %", "0.29 %" """
    percent = 100 * value
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"
