"""Links between the documents outside `docs/` lead somewhere; mkdocs checks those inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "systemd").glob("*.md")]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text())
    gone = [link for link in links if not (document.parent / link).exists()]
    assert not gone, f"{document.relative_to(ROOT)} links to {gone}"
