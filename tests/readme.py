"""README.md, by its sections and code blocks."""

import re

from .program import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Returns what stands under a heading, up to the next one of its level or above."""
    marks = re.findall(rf"^(#+) {re.escape(heading)}$", README, re.MULTILINE)
    assert len(marks) == 1, f"{len(marks)} headings {heading!r}"
    text = README.split(f"\n{marks[0]} {heading}\n")[1]
    return re.split(rf"^#{{1,{len(marks[0])}}} ", text, flags=re.MULTILINE)[0]


def blocks(language: str, text: str = README) -> list[str]:
    """Returns the code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """Returns the rows of the tables, heads left out, by their cells."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    heads = {place - 1 for place, line in enumerate(lines) if re.fullmatch(r"[-|]+", line)}
    return [
        [cell.strip() for cell in line.split("|")]
        for place, line in enumerate(lines)
        if not {place, place - 1} & heads
    ]
