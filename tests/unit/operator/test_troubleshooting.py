"""The page that is keyed by reason has every reason."""

from __future__ import annotations

import re
from pathlib import Path

from asyncrl_api.reasons import Reason

PAGE = Path(__file__).parents[3] / "docs" / "troubleshooting.md"


def test_every_reason_has_an_entry_and_every_entry_a_reason() -> None:
    text = PAGE.read_text()
    first_cells = re.findall(r"^\| (`[^|]*`) \|", text, flags=re.MULTILINE)
    entries = {word for cell in first_cells for word in re.findall(r"`(\w+)`", cell)}
    over = text.split("## The run is over")[1]
    entries |= set(re.findall(r"`(\w+)`", over)) - {"spec"}
    assert entries == {str(reason) for reason in Reason}
