"""The fenced blocks of the pages: what a reader copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
FENCE = "```"


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its opening fence, from 1."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[str]:
        """The commands of a shell block without comments, continued lines as one."""
        for line in self.text.replace("\\\n", "").splitlines():
            command = " ".join(f" {line}".partition(" #")[0].split())
            if command:
                yield command

    @property
    def file(self) -> str | None:
        """The name in its first line, `# NAME.yaml`: the reader saves it under that."""
        first = self.text.partition("\n")[0].removeprefix("# ")
        return first if first.endswith(".yaml") and " " not in first else None


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order. Raises ValueError where one has no end."""
    found: list[Block] = []
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if not line.startswith(FENCE):
            inside.append(line)
        elif opened is None:
            opened, inside = (number, line.removeprefix(FENCE)), []
        else:
            text = "".join(f"{part}\n" for part in inside)
            found.append(Block(page, *opened, text))
            opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: this block has no end")
    return found


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of every page, of these languages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]
