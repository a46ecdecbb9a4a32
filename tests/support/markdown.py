"""The code blocks of a Markdown file.

A block of shell commands may name its terminal in its first line: `# terminal 2`, or `# terminal 2, after Ctrl-C` if a
reader must first end the command that runs there. Without such a line it belongs to the terminal of the block before it.
A Python block may name its file in its first line: `# app.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TERMINAL = re.compile(r"# terminal (\d)(, after Ctrl-C)?")
_FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block.

    Attributes:
        language: as after the opening fence; empty for output and the like.
        terminal: number of the terminal for shell commands.
        interrupts: whether Ctrl-C comes first.
        file: for Python, the name to save it as; empty if it names none.
    """

    language: str
    code: str
    terminal: int = 1
    interrupts: bool = False
    file: str = ""


def blocks(document: Path) -> Iterator[Block]:
    """All code blocks of `document`, in order."""
    terminal = 1
    for language, code in _BLOCK.findall(document.read_text()):
        named = _TERMINAL.match(code)
        if language == "sh" and named:
            terminal = int(named[1])
        saved = _FILE.match(code)
        yield Block(
            language,
            code,
            terminal,
            interrupts=bool(language == "sh" and named and named[2]),
            file=saved[1] if language == "python" and saved else "",
        )
