"""Links between the pages lead somewhere: to a file, and to a heading of it."""

from __future__ import annotations

import re

import pytest
from docs.blocks import PAGES, ROOT, blocks

LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: str) -> str:
    """The text of a page without its blocks."""
    text = (ROOT / page).read_text()
    for block in blocks(page):
        text = text.replace(block.text, "")
    return text


def anchors(page: str) -> set[str]:
    """What can follow `#`: the headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    plain = (re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.relative_to(ROOT))), link
