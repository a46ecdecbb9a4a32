"""The tables of `deploy/guides/settings.md`, which repeat the description of every setting.

python -m tests.support.settings_guide    # write the descriptions into the guide again, after one has changed
"""

from __future__ import annotations

import re
from pathlib import Path

from broker.cli.serve import describe
from broker.settings import Settings

GUIDE = Path(__file__).parents[2] / "deploy" / "guides" / "settings.md"
ROW = re.compile(r"^\| `--([a-z-]+)` \| .* \|$", re.MULTILINE)


def flags() -> dict[str, str]:
    """The text of each flag's row."""
    return {
        name.replace("_", "-"): describe(field)
        .removesuffix(" (default: none)")
        .replace("%%", "%")
        .replace("|", "\\|")
        for name, field in Settings.model_fields.items()
    }


def rewritten(text: str) -> str:
    """`text` with the present description in each row; a row of an unknown flag stays as it is."""
    known = flags()
    return ROW.sub(lambda row: f"| `--{row[1]}` | {known[row[1]]} |" if row[1] in known else row[0], text)


if __name__ == "__main__":
    GUIDE.write_text(rewritten(GUIDE.read_text()))
