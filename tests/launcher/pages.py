"""Reads a page as a browser would, and refuses one that is broken or asks for anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from xml.etree import ElementTree

# What the page holds itself: images in its text, and places of its own.
_HELD = {"img": "data:image/jpeg;base64,", "link": "data:,", "a": "#"}
_VOID = {"meta", "rect", "circle", "line", "polyline"}


@dataclass
class Page:
    text: str = ""
    images: int = 0
    charts: list[ElementTree.Element] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "object", "form"), tag
        for name, value in attrs:
            assert not name.startswith("on"), attrs
            if name in ("src", "href"):
                assert (value or "").startswith(_HELD[tag]), (tag, (value or "")[:60])
        self.page.images += tag == "img"
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _VOID, tag

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.page.text += data


def check_page(html: str) -> Page:
    """The text and the charts of a page whose tags are whole and that loads nothing."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open, reader.open
    assert "url(" not in html
    assert "@import" not in html
    start = 0
    while (start := html.find("<svg", start)) >= 0:
        end = html.index("</svg>", start) + len("</svg>")
        reader.page.charts.append(ElementTree.fromstring(html[start:end]))
        start = end
    reader.page.text = " ".join(reader.page.text.split())
    return reader.page
