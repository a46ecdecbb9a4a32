"""The dashboard's figures, in Node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import broker.web.page
from tests.support.waiting import WAIT_SECONDS

FIGURES = Path(broker.web.page.__file__).with_name("figures.js")
SCRIPT = """
const { takeNow, summaryNow, reasons } = await import(process.argv[1]);
const others = { instance: "a", streams: 1, delivered: 0, resumed: 0, gaps: {}, refusals: {}, p50_ms: null, p99_ms: null, lag_ms: 1 };
for (const { at, ...sample } of JSON.parse(process.argv[2])) takeNow(at, { ...others, published: 0, closes: {}, uptime: 1000, ...sample });
console.log(JSON.stringify({ rate: summaryNow().rates.published, closes: reasons("closes") }));
"""


def shown(node: str, *samples: Mapping[str, object]) -> dict[str, Any]:
    """Publishes a second, and closes by reason, from samples of one instance."""
    command = [node, "--input-type=module", "-e", SCRIPT, str(FIGURES), json.dumps(samples)]
    made: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, check=True, timeout=WAIT_SECONDS).stdout
    )
    return made


@pytest.mark.parametrize(
    ("samples", "rate"),
    [([(10, 5)], 0), ([(10, 5), (10, 5)], 0), ([(10, 5), (10, 7)], 0), ([(10, 5), (12, 9)], 2)],
)
def test_a_rate_needs_two_moments(node: str, samples: list[tuple[int, int]], rate: int) -> None:
    """Figures of one moment may come twice, such as those that waited for the store."""
    assert shown(node, *({"at": at, "published": published} for at, published in samples))["rate"] == rate


@pytest.mark.parametrize(("uptime", "closes"), [(3, [["client", 2]]), (1000, [])])
def test_what_an_instance_counted_before_its_first_figures_is_shown_if_it_started_just_then(
    node: str, uptime: int, closes: list[object]
) -> None:
    assert shown(node, {"at": 1003, "uptime": uptime, "closes": {"client": 2}})["closes"] == closes
