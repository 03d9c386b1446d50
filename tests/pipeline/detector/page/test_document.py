"""The page as text: what it says, of whatever there is; what strangers wrote is text in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.detector.page import Shown, page, policy
from pipeline.detector.prediction import Explanation, Moment, Prediction, WindowScore
from pipeline.statistics.answers import Answer, cannot_tell
from tests.pipeline.detector.page.examples import ABOUT, BARE, CANNOT, FULL, SAYS, UNSCORED, WINDOWS, shown
from tests.pipeline.detector.page.reader import Read

ROOT = Path(__file__).parents[4]
EVIL = "a\"'><script>alert(1)</script><img src=x onerror=alert(1)>\n\u202emp4.\udcff&amp;{{ 7 * 7 }}"


def test_the_answer_stands_on_top_with_its_strength_and_its_limits() -> None:
    text = Read(page(FULL, shown(), ABOUT)).text
    assert text.index("Weak support for a fake") < text.index("Picture alone")
    assert "about 4.4 times as probable of a fake as of a real clip" in text
    assert "claims \N{MINUS SIGN}1.07 at the lowest and +1.21 at the highest" in text
    assert "12 times for a real clip, 16 times for a fake" in text
    assert "calibrated on: 16 real and 40 fake validation clips" in text
    assert "reached that end" not in text
    at_end = replace(FULL, answer=replace(SAYS, log10_lr=1.21))
    assert "This score has reached that end." in Read(page(at_end, shown(), ABOUT)).text
    for says, log10_lr in (("is as probable of a fake as of a real clip", 0.01), ("real clip as of a fake", -1.0)):
        assert says in Read(page(replace(FULL, answer=replace(SAYS, log10_lr=log10_lr)), shown(), ABOUT)).text


def test_texts_that_are_empty_cost_no_page() -> None:
    """A bundle's reason why nothing can be said may be one."""
    empty = replace(CANNOT, answer=cannot_tell(""), quality=("",))
    assert "Cannot tell" in Read(page(empty, shown(), ABOUT)).text


@pytest.mark.parametrize("most", [100.0, -100.0])
def test_the_highest_claim_has_a_page(most: float) -> None:
    said = replace(SAYS, log10_lr=most, limits=(-100.0, 100.0))
    assert "times as probable" in Read(page(replace(FULL, answer=said), shown(), ABOUT)).text


def test_base_rates_are_told_with_the_figures_of_this_clip() -> None:
    text = Read(page(FULL, shown(), ABOUT)).text
    # 10^0.64 = 4.365 to 1, against 1, 99 and 9999 to 1
    for words in ("1 in 2 81 %", "1 in 100 4.2 %", "1 in 10,000 0.044 %"):
        assert words in text


@pytest.mark.parametrize("of", [FULL, BARE, CANNOT, UNSCORED], ids=["full", "bare", "cannot tell", "not scored"])
@pytest.mark.parametrize("what", [shown(), Shown()], ids=["all", "nothing"])
def test_a_page_stands_with_whatever_there_is(of: Prediction, what: Shown) -> None:
    read = Read(page(of, what, ABOUT))
    targets = set(read.all("id"))
    assert {link.removeprefix("#") for link in read.all("href") if link.startswith("#")} <= targets
    assert len(targets) == len(read.all("id"))
    for words in ("What it does not say", "It is no verdict on anybody", "How to reproduce", ABOUT.digest, ABOUT.worth):
        assert words in read.text
    assert not re.search(r"\b(None|nan|Undefined)\b", read.text)
    shown_there = {src.partition(";")[0] for src in read.all("src")}
    assert shown_there == ({"data:video/mp4", "data:text/vtt", "data:image/jpeg"} if what.film else set())


def test_who_cannot_tell_says_so_first_and_flags_nothing() -> None:
    text = Read(page(CANNOT, shown(), ABOUT)).text
    assert text.index("Cannot tell") < text.index("Too little face: seen in 12 %") < text.index("Picture alone")
    assert "It speaks neither for a fake nor for a real clip" in text
    assert "nothing is flagged, since it cannot tell" in text
    assert " flagged from" not in text
    assert "1 in 10,000" not in text
    assert "Not scored" in (text := Read(page(UNSCORED, Shown(), ABOUT)).text)
    assert "Not a media file that can be read." in text


def test_the_table_says_what_the_figure_draws() -> None:
    read = Read(page(FULL, shown(), ABOUT))
    assert "0:00.2 to 0:04.2 0.622 0:03.9 to 0:07.9 0.818 flagged 0:07.6 to 0:11.6 0.897 flagged" in read.text
    says = read.all("data-says")
    assert [each.endswith("flagged") for each in says] == [False, True, True]


def test_reasons_people_provenance_and_quality_are_told() -> None:
    text = Read(page(FULL, shown(), ABOUT)).text
    for words in (
        "mouth +0.51", "5000 to 6000 Hz +0.30", "visual/blocks.3 +0.41",
        "0:01.0 to 0:06.5 cannot tell: too little face", "claim_generator camera/1.0", "by somebody",
        "The face is 38 px wide", "97 % of the pictures", "share",
        "Agreement of its networks: they agree as far as on known clips: their P(fake) differ by 0.05.",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("mouth +0.51") < text.index("skin +0.10")
    bare = Read(page(BARE, shown(), ABOUT)).text
    for words in ("What the score hangs on", "Other faces", "The face is 38 px", "Shapley"):
        assert words not in bare
    assert "No C2PA manifest" in bare


def test_of_many_faces_those_that_speak_most_for_a_fake_are_told_first() -> None:
    people = [
        replace(FULL.people[0], first_s=100.0 + i, last_s=101.0 + i, answer=replace(SAYS, log10_lr=i / 100))
        for i in range(50)
    ]
    text = Read(page(replace(FULL, people=(FULL.people[0], *people)), shown(), ABOUT)).text
    assert text.index("2:29.0 to 2:30.0") < text.index("2:28.0 to 2:29.0") < text.index("And 31 more")
    assert "1:40.0 to" not in text


def test_a_page_says_how_to_get_the_same_again() -> None:
    text = Read(page(replace(FULL, path="-my clips/it's.mp4"), shown(), ABOUT)).text
    assert """bmnas predict --bundle detector.bmnas -- '-my clips/it'"'"'s.mp4'""" in text
    for words in ("1,234,567 bytes, SHA-256 " + "cd" * 32, "SHA-256 " + "ab" * 32, "bmnas 0.1.0"):
        assert words in text


def evil_everywhere() -> tuple[Prediction, Shown]:
    says = Answer(EVIL, 0.7, 0.5, (-1.0, 1.0), 0.8)
    person = replace(FULL.people[0], answer=cannot_tell(EVIL), modalities={"visual": says})
    explanation = Explanation(7.64, layers={f"visual/{EVIL}": 0.2}, regions={EVIL: 0.1})
    of = replace(
        FULL, path=EVIL + "/" + EVIL[:20], answer=says, modalities={"visual": cannot_tell(EVIL)}, quality=(EVIL,),
        people=(person,), provenance={EVIL: [EVIL, {EVIL: EVIL}]}, explanation=explanation, shares={},
    )  # fmt: skip
    return of, shown(missing=(EVIL,))


def test_what_strangers_wrote_is_text() -> None:
    of, what = evil_everywhere()
    about = replace(ABOUT, name=EVIL, worth=EVIL, warnings=(EVIL,), versions={EVIL: EVIL}, options=("--work", EVIL))
    html = page(of, what, about)
    read, harmless = Read(html), Read(page(FULL, shown(), ABOUT))
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in harmless.elements} | {"p"}
    assert sum(tag == "script" for tag, _ in read.elements) == 1
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert read.text.count("<script>alert(1)</script>") > 10
    assert "{{ 7 * 7 }}" in read.text
    assert all(char.isprintable() or char == "\n" for char in html)
    assert "%0A%E2%80%AEmp4.%FF" in read.text
    html.encode()


def test_names_of_any_length_are_whole() -> None:
    name = "x" * 246 + ".mp4"
    assert name in Read(page(replace(FULL, path=f"clips/{name}"), shown(), ABOUT)).text


def test_provenance_is_bounded() -> None:
    deep: dict[str, object] = {"end": "y" * 5000}
    for _ in range(60):
        deep = {"in": deep}
    html = page(replace(BARE, provenance={"deep": deep, "wide": ["z"] * 5000, "long": "y" * 100_000}), Shown(), ABOUT)
    assert len(html) < len(page(BARE, Shown(), ABOUT)) + 10_000


def test_hours_are_drawn_with_their_peaks() -> None:
    windows = tuple(WindowScore(2.0 * i, 0.99 if i == 7000 else 0.3) for i in range(14_400))
    moments = tuple(Moment(2.0 * i, 2.0 * i + 0.5, 0.7 if i == 9000 else 0.001) for i in range(14_400))
    of = replace(FULL, windows=windows, explanation=Explanation(14_000.0, moments=moments))
    what = shown(film=b"")
    assert what.film
    html = page(of, replace(what, film=replace(what.film, start_s=13_940, end_s=14_060, whole=False)), ABOUT)
    assert len(html) < 1_500_000
    says = Read(html).all("data-says")
    assert len(says) <= 400
    assert sum("0.99, flagged" in each for each in says) == 1
    assert "only 3:52:20.0 to 3:54:20.0 of the file, around its highest score" in Read(html).text


def test_the_policy_lets_only_the_page_s_own_run() -> None:
    html = page(FULL, shown(), ABOUT)
    read = Read(html)
    (told,) = [of["content"] for tag, of in read.elements if tag == "meta" and "http-equiv" in of]
    assert told == policy()
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy()
    assert policy().startswith("default-src 'none'; ")
    assert "unsafe" not in policy()
    assert "http" not in policy()
    assert not read.all("style")


FOREIGN = {"matplotlib", "pandas", "scipy", "sklearn", "vl_convert", "zarr", "h5py", "dask"}
CODE = "import json, sys; import pipeline.detector.page; print(json.dumps(list(sys.modules)))"


def test_pages_need_nothing_that_a_small_install_lacks() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not set(json.loads(said)) & FOREIGN


def test_windows_that_were_scored_are_all_in_the_table() -> None:
    assert all(f"{window.score:.3f}" in page(FULL, Shown(), ABOUT) for window in WINDOWS)
