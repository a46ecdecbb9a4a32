"""Asks promtool which alerts of `deploy/alerts.yml` fire on some series."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from tests.support.waiting import WAIT_SECONDS

RULES = Path(__file__).parent.parent.parent / "deploy" / "alerts.yml"
JOB = {"job": "sse-broker", "instance": "10.0.0.1:9100"}

Series = Mapping[str, str]
"""By a series' name with its labels, its values as promtool has them, one for each minute: `0+10x5 50x10`."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: install Debian's prometheus"
)


def alerts() -> Sequence[Mapping[str, Any]]:
    """The rules of `deploy/alerts.yml`."""
    rules: Sequence[Mapping[str, Any]] = YAML(typ="safe").load(RULES)["groups"][0]["rules"]
    return rules


def firing(series: Series, *minutes: int) -> Sequence[set[str]]:
    """The alerts that fire on `series` at each of `minutes`.

    promtool only compares. So the test expects an alert that doesn't exist, and promtool prints those it got instead.
    """
    queries = [
        {
            "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": '{alertname="none"}', "value": 1}],
        }
        for minute in minutes
    ]
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": queries,
            }
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.yml"
        YAML(typ="safe").dump(test, path)
        command = ["promtool", "test", "rules", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    output = done.stdout + done.stderr
    got = re.findall(r"time: [^\n]*,\s+exp:[^\n]*\s+got: ([^\n]*)", output)
    assert len(got) == len(minutes), output
    return [set(re.findall(r'alertname="(\w+)"', text)) for text in got]


def samples(text: str) -> dict[str, float]:
    """The samples of a scrape, by series, as a scraper stores them: with its job and its instance."""
    found = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            pairs = ",".join(f'{label}="{text}"' for label, text in {**labels, **JOB}.items())
            found[f"{name}{{{pairs}}}"] = value
    return found


def over_time(scrapes: Sequence[Mapping[str, float]], minutes: Sequence[int]) -> Series:
    """Series of real scrapes, each of which is repeated for so many minutes. A series that a scrape lacks has no value then."""
    names = dict.fromkeys(name for scrape in scrapes for name in scrape)
    return {
        name: " ".join(
            f"{scrape[name]!r}x{count - 1}" if name in scrape else f"_x{count}"
            for scrape, count in zip(scrapes, minutes, strict=True)
        )
        for name in names
    }
