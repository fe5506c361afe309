"""Whether an HTML page is well formed."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import List

VOID = ("meta", "img")  # elements that have no end tag


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open_tags: List[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag


def check_tags(html: str) -> None:
    balance = _Balance()
    balance.feed(html)
    assert balance.open_tags == []
