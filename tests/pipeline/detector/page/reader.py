"""A page as a reader gets it: which elements there are, and what they say."""

from __future__ import annotations

from html.parser import HTMLParser


class Read(HTMLParser):
    """elements: (tag, attributes); text: all that is shown, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._text: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self._text.append(data)

    def all(self, name: str) -> list[str]:
        """The values of an attribute."""
        return [value for _, attributes in self.elements if (value := attributes.get(name))]
