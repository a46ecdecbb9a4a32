"""The dashboard's figures, in Node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import broker.web.page

FIGURES = Path(broker.web.page.__file__).with_name("figures.js")
SCRIPT = """
const { takeNow, summaryNow } = await import(process.argv[1]);
for (const [at, published] of JSON.parse(process.argv[2]))
  takeNow(at, { instance: "a", streams: 1, published, delivered: 0, resumed: 0, gaps: {}, closes: {}, refusals: {}, p50_ms: null, p99_ms: null, lag_ms: 1 });
console.log(JSON.stringify(summaryNow().rates.published));
"""


def rate(node: str, *samples: tuple[float, int]) -> Any:
    """Publishes a second, from `samples` of the time and of all publishes so far."""
    command = [node, "--input-type=module", "-e", SCRIPT, str(FIGURES), json.dumps(samples)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def test_a_rate_needs_two_moments(node: str) -> None:
    """Figures of one moment may come twice, such as those that waited for the store."""
    assert rate(node, (10, 5)) == 0
    assert rate(node, (10, 5), (10, 5)) == 0
    assert rate(node, (10, 5), (10, 7)) == 0
    assert rate(node, (10, 5), (12, 9)) == 2
