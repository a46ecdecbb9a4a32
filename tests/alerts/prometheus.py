"""Debian's Prometheus with the very files of `deploy/`, to see what its alerts do on brokers that run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from tests.alerts.promtool import RULES
from tests.live.proxies import substituted
from tests.support.child_process import ChildProcess, RestartableProcess
from tests.support.http import HOST
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS

CONFIG = RULES.parent / "prometheus.yml"
TARGETS = "[broker-1:9100, broker-2:9100, broker-3:9100]"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is missing: install Debian's prometheus"
)


class Prometheus(RestartableProcess):
    """A server that scrapes brokers and evaluates `deploy/alerts.yml`; a context manager.

    Args:
        ports: of the brokers' metrics, on loopback.
        folder: for its configuration and its data.
    """

    def __init__(self, ports: Sequence[int], folder: Path) -> None:
        super().__init__()
        self._port = free_port()
        self._folder = folder
        targets = json.dumps([f"{HOST}:{port}" for port in ports])
        text = substituted(CONFIG.read_text(), {TARGETS: targets, "/etc/prometheus/alerts.yml": str(RULES)})
        (folder / "prometheus.yml").write_text(text)

    def start(self) -> None:
        self._last = ChildProcess(
            [
                "prometheus",
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={HOST}:{self._port}",
                "--log.level=warn",
            ]
        )
        self._last.wait_until_up(self._is_ready, WAIT_SECONDS)

    def samples(self, selector: str, seconds: float) -> Mapping[str, int]:
        """How many samples each series of `selector` has in the last `seconds`, by its labels as text."""
        found = self._get("query", query=f"{selector}[{round(seconds)}s]")["result"]
        return {_labels(series["metric"]): len(series["values"]) for series in found}

    def evaluations(self, state: str, seconds: float) -> Mapping[str, int]:
        """At how many evaluations within the last `seconds` each alert was in this state, `pending` or `firing`."""
        found: dict[str, int] = {}
        for series in self._get("query", query=f'ALERTS{{alertstate="{state}"}}[{round(seconds)}s]')[
            "result"
        ]:
            name = series["metric"]["alertname"]
            found[name] = found.get(name, 0) + len(series["values"])
        return found

    def rules(self) -> Sequence[Mapping[str, Any]]:
        """Each rule, with its `name`, its `health` and when it was last evaluated."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **query: str) -> Any:
        url = f"http://{HOST}:{self._port}/api/v1/{what}?{urlencode(query)}"
        with urlopen(url, timeout=WAIT_SECONDS) as answer:
            return json.load(answer)["data"]

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"http://{HOST}:{self._port}/-/ready", timeout=WAIT_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:  # a 503, too
            return False


def _labels(metric: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(metric.items()) if name != "__name__")
