"""The guides are true and complete: every metric has an alert or a line that explains it, every setting a row."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support.local_broker import Server
from tests.support.settings_guide import GUIDE, ROW, flags, rewritten
from tests.support.waiting import WAIT_SECONDS

DEPLOY = Path(__file__).parent.parent / "deploy"

METRIC_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*?) ?\| ([^|]+) \|", re.MULTILINE)


async def test_the_guide_lists_every_metric_with_its_type_and_labels(server: Server) -> None:
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in METRIC_ROW.findall((DEPLOY / "guides" / "metrics.md").read_text())
    }
    exported = {}
    for family in server.node.metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exported[name] = family.type, labels
    assert listed == exported


async def test_each_metric_has_a_test(server: Server) -> None:
    """One that brings its occasion about, or reads the number that it stands for."""
    tests = Path(__file__).parent
    texts = "\n".join(path.read_text() for path in tests.rglob("test_*.py") if path != Path(__file__))
    ours = [family for family in server.node.metrics.registry.collect() if family.name.startswith("broker_")]
    for family in ours:
        assert re.search(rf"\b{family.name}(_total|_count|_bucket|_sum)?\b", texts), family.name


LEFT_OUT = {
    "process_virtual_memory_bytes": "address space, of which most is never used",
    "broker_lagging_bytes": "how much lagging streams lack; looked at when they are many",
    "broker_lagging_max_bytes": "the same of one stream",
    "broker_lagging_max_seconds": "the same in time",
    "broker_body_bytes": "bounded, and its refusals are shown",
    "broker_shortened_answers": "nothing is refused: pages have fewer events",
    "broker_refused_answers": "the answers are shown by status",
    "broker_tasks": "for the soak",
}
"""Metrics that neither a dashboard nor an alert needs, and why."""


async def test_each_metric_is_shown_or_alerted_on_or_left_out_on_purpose(server: Server) -> None:
    texts = (DEPLOY / "alerts.yml").read_text() + (DEPLOY / "grafana" / "dashboard.json").read_text()
    families = {family.name for family in server.node.metrics.registry.collect()}
    used = {name for name in families if re.search(rf"\b{name}(_total|_bucket|_sum|_count)?\b", texts)}
    assert used | set(LEFT_OUT) == families
    assert not used & set(LEFT_OUT), "used after all"


async def test_alerts_name_metrics_that_there_are(server: Server) -> None:
    families = list(server.node.metrics.registry.collect())
    names = {sample.name for family in families for sample in family.samples}
    names |= {family.name for family in families}
    for metric in set(re.findall(r"\b(?:broker|process)_[a-z_]+", (DEPLOY / "alerts.yml").read_text())):
        assert metric in names, metric


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """A machine without systemd looks only at the sections."""
    for name, section in (("broker.service", "Service"), ("broker.socket", "Socket")):
        text = (DEPLOY / name).read_text().replace("/opt/sse-broker/.venv/bin/broker", sys.executable)
        (tmp_path / name).write_text(text)
        unit = ConfigParser(strict=False)
        unit.read_string(text)
        assert {"Unit", section, "Install"} == set(unit.sections())
    if shutil.which("systemd-analyze") is not None:
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "broker.socket")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
        assert [line for line in done.stderr.splitlines() if str(tmp_path) in line] == []


def test_the_service_is_hardened() -> None:
    """At most 3.0 of 10 by systemd's own measure; an unhardened unit has 9.6."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("LEFT OUT: needs systemd-analyze, of Debian's package systemd")
    command = [program, "security", "--offline=true", "--threshold=30", str(DEPLOY / "broker.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_has_a_row() -> None:
    assert set(ROW.findall(GUIDE.read_text())) == set(flags())


def test_every_row_says_what_the_help_says() -> None:
    assert rewritten(GUIDE.read_text()) == GUIDE.read_text(), "run: python -m tests.support.settings_guide"
