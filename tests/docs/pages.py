"""The pages of the documentation, and their blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.md", "*/README.md", "integrations/*/README.md", "docs/*.md")
        for path in ROOT.glob(pattern)
    }
)

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: its page and line, its language, and its text."""

    where: str
    language: str
    text: str


def text(page: str) -> str:
    """Return a page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return a page's blocks in order."""
    whole = text(page)
    return [
        Block(f"{page}:{whole.count(chr(10), 0, match.start()) + 1}", match[1], match[2])
        for match in _FENCE.finditer(whole)
    ]


def symptoms(page: str) -> list[str]:
    """Return the code in the first column of a page's tables."""
    columns = re.findall(r"^\| (.+?) \|", text(page), re.MULTILINE)
    return [code for column in columns for code in re.findall(r"`([^`]+)`", column)]


def commands(page: str) -> list[str]:
    """Return the `hqsam` commands in a page's sentences and tables."""
    prose = _FENCE.sub("", text(page))
    return [" ".join(code.split()) for code in re.findall(r"`(hqsam\s[^`]+)`", prose)]
