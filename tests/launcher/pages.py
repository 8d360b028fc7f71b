"""Reads a page as a browser would, and refuses one that is broken or asks for anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from xml.etree import ElementTree

_VOID = {"meta", "rect", "circle", "line", "polyline"}


@dataclass
class Page:
    text: str = ""
    charts: list[ElementTree.Element] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object"), tag
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}, attrs
        if tag not in ("meta",):
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
