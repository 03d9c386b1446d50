"""A page of one file: templates, the formatting of values, and the policy that lets nothing but the page's own run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from pipeline import figures
from pipeline.statistics import strength

_TEMPLATES = Path(__file__).parent / "templates"
_SIGNS = re.compile(r"([\\`*_\[\]|~])")
_NBSP = "\N{NO-BREAK SPACE}"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {}"


def render(template: str, **content: Any) -> str:
    """The page; every text in `content` is escaped unless it is Markup."""
    from pipeline.figures.vega import script  # noqa: PLC0415 - an extra, and needed by whole pages only

    scripts = [script(), *((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("boot.js", "sort.js"))]
    policy = _POLICY.format(" ".join(f"'sha256-{_sha256(text)}'" for text in scripts))
    inline = [Markup(text) for text in scripts]  # noqa: S704 - our own, and their digests are in the policy
    return _environment().get_template(template).render(content | {"policy": policy, "scripts": inline})


def render_markdown(template: str, **content: Any) -> str:
    """The card; what stands in `content` is text: Markdown's signs in it are escaped by the filter `text`."""
    environment = _environment()
    environment.autoescape = False
    environment.filters |= {"text": markdown_text, "rates": _rates}
    return environment.get_template(template).render(content)


def _rates(found: Mapping[str, Any] | None) -> str:
    return in_words(found, scale=100, digits=1)


def markdown_text(content: object) -> str:
    """It as text of one line that Markdown shows as it is, in a table, too."""
    line = " ".join(str(content).split())
    return _SIGNS.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_TEMPLATES, Path(figures.__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number, "percent": percent, "value": value, "rate": rate, "signed": signed, "p": p_value,
        "decimals": decimals, "words": in_words, "lead": lead, "lead_span": lead_span,
    }  # fmt: skip
    return environment


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "—" if value is None else f"{value:z.3f}"


def decimals(value: float) -> str:
    """Two decimals."""
    return f"{value:z.2f}"


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, or a dash."""
    return "—" if value is None else f"{100 * value:.1f}{_NBSP}%"


def value(found: Mapping[str, Any] | float | None) -> Markup:
    """A value {value, low, high, reason} with its interval; an undefined one as a dash with its reason. Or a number."""
    return _value(found, 1, 3, "")


def rate(found: Mapping[str, Any] | float | None) -> Markup:
    """The same as a percentage."""
    return _value(found, 100, 1, f"{_NBSP}%")


def in_words(found: Mapping[str, Any] | None, *, scale: float = 1, digits: int = 3) -> str:
    """The same as plain text: "0.914 (0.861 to 0.952)"."""
    if found is None or found["value"] is None:
        return "undefined"
    text = f"{scale * found['value']:.{digits}f}"
    if found.get("low") is None:
        return text
    return f"{text} ({scale * found['low']:.{digits}f} to {scale * found['high']:.{digits}f})"


def lead(adds: Mapping[str, Any]) -> str:
    """A paired difference as plain text: "+0.012 (-0.010 to +0.031)", with true minus signs."""
    return f"{signed(adds['difference'])} ({lead_span(adds)})"


def lead_span(adds: Mapping[str, Any]) -> str:
    """The interval of a paired difference, or why there is none."""
    if adds["low"] is None:
        return adds.get("reason") or "no interval"
    return f"{signed(adds['low'])} to {signed(adds['high'])}"


def signed(value: float) -> str:
    """Three decimals with their sign, a true minus."""
    return strength.signed(value, 3).replace("-", "\N{MINUS SIGN}")


def p_value(p: float | None) -> str:
    """How often chance alone does it: "p = 0.031", "p < 0.001"; a dash where nobody can say."""
    if p is None:
        return "—"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def undefined(reason: str) -> Markup:
    """A dash, and why."""
    return Markup('<span class="undefined">— <small>{}</small></span>').format(reason)


def _value(found: Mapping[str, Any] | float | None, scale: float, digits: int, unit: str) -> Markup:
    if not isinstance(found, Mapping):
        return escape("—" if found is None else f"{scale * found:.{digits}f}{unit}")
    if found["value"] is None:
        return undefined(found.get("reason") or "undefined")
    text = f"{scale * found['value']:.{digits}f}{unit}"
    if found.get("low") is None:
        return escape(text)
    span = f"{scale * found['low']:.{digits}f} to {scale * found['high']:.{digits}f}"
    return Markup("{} <small>{}</small>").format(text, span)
