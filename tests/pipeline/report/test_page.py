from __future__ import annotations

import base64
import hashlib
import html
import re

import pytest

from pipeline.report.page import in_words, markdown_text, number, p_value, percent, rate, render, signed, value

V = {"value": 0.1234, "low": 0.1, "high": 0.2, "reason": None}


def test_values_have_their_interval_or_their_reason() -> None:
    assert value(V) == "0.123 <small>0.100 to 0.200</small>"
    assert rate(V) == "12.3\N{NO-BREAK SPACE}% <small>10.0 to 20.0</small>"
    assert value(V | {"low": None}) == "0.123"
    assert "one <b>class&lt;" not in value({"value": None, "reason": "one <b>class"})
    assert "— <small>one &lt;b&gt;class</small>" in value({"value": None, "reason": "one <b>class"})
    assert (value(None), value(0.5), rate(0.5)) == ("—", "0.500", "50.0\N{NO-BREAK SPACE}%")


def test_numbers_in_words() -> None:
    assert in_words(V) == "0.123 (0.100 to 0.200)"
    assert in_words(V, scale=100, digits=1) == "12.3 (10.0 to 20.0)"
    assert in_words({"value": None}) == in_words(None) == "undefined"
    assert (number(None), number(0.5), percent(0.5)) == ("—", "0.500", "50.0\N{NO-BREAK SPACE}%")
    assert (signed(-0.5), signed(0.5)) == ("\N{MINUS SIGN}0.500", "+0.500")
    assert (p_value(0.0001), p_value(0.25)) == ("p < 0.001", "p = 0.250")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b\nc", "a \\| b c"),
        ("<img src=x> & [a](b) `c` *d*", "&lt;img src=x&gt; &amp; \\[a\\](b) \\`c\\` \\*d\\*"),
        ("realset2, 4-5", "realset2, 4-5"),
    ],
)
def test_texts_are_no_markdown(text: str, shown: str) -> None:
    assert markdown_text(text) == shown


def test_only_the_page_s_own_scripts_may_run() -> None:
    page = render("base.html.j2", contents=[("here", "Here")])
    policy = html.unescape(page[: page.index("<style>")])
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(allowed) == 3
    assert "unsafe-eval" not in policy
    assert "default-src 'none'" in policy
