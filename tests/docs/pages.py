"""The code blocks of README, CONTRIBUTING and docs/, in the order a reader meets them.

A page starts in an empty folder. `<!-- given: hkh/ runs/hkh-1 -->` starts another, which holds what readers
have by then, as named. `<!-- slow given: … -->` is for blocks that take a minute or more.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"sh", "python"}
SHOWN = {"text", "toml", "yaml", "json", "console"}
"""Languages of blocks that are only to be read."""
GIVEN = re.compile(r"<!-- (slow )?given:( [^>]*)? -->\s*")


@dataclass(frozen=True)
class Block:
    """A block to run."""

    language: str
    line: int
    text: str


@dataclass(frozen=True)
class Part:
    """Blocks that follow one another in one folder."""

    page: Path
    line: int
    given: tuple[str, ...] = ()
    slow: bool = False
    blocks: list[Block] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def parts_of(page: Path) -> list[Part]:
    """The parts of a page that have blocks to run."""
    found = [Part(page, 1)]
    for token in MarkdownIt().parse(page.read_text()):
        line = (token.map or [0])[0] + 1
        if token.type == "code_block":
            raise ValueError(f"{page}:{line}: code by indentation; fence it, and name its language")
        if token.type == "fence" and token.info not in RUN | SHOWN:
            raise ValueError(f"{page}:{line}: a block of {token.info!r}, expected {sorted(RUN | SHOWN)}")
        if token.type == "fence" and token.info in RUN:
            found[-1].blocks.append(Block(token.info, line + 1, token.content))
        html = [part.content for part in (token, *(token.children or [])) if part.type.startswith("html_")]
        if any(re.search("```|~~~", text) for text in html):
            raise ValueError(f"{page}:{line}: a block within HTML, which is not run; take it out")
        if not any("<!--" in text for text in html):
            continue
        if not (said := GIVEN.fullmatch(token.content)):
            raise ValueError(f"{page}:{line}: {token.content!r}, of comments only <!-- given: … -->, alone")
        found.append(Part(page, line, tuple((said[2] or "").split()), bool(said[1])))
    return [part for part in found if part.blocks]
