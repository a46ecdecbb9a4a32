"""A broker in a process of its own, for tests of a real server: one that is killed, restarted or loaded.

It listens on loopback.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, cast
from urllib.parse import quote, urlencode, urlsplit

from tests.support.child_process import ChildProcess, RestartableProcess
from tests.support.http import JSON, exchange, request
from tests.support.patience import environment
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS, wait_for

START_SECONDS = WAIT_SECONDS
LISTENING = re.compile(r"listening on (\S+?),.*\n")  # the whole line: it may arrive in parts


class BrokerProcess(RestartableProcess):
    """`broker serve`; a context manager.

    Args:
        settings: its settings by name. Six are none of them: `descriptors` limits how many descriptors the process has,
            `environment` has variables for it, `launcher` is a command that runs its own arguments, and `folder` has the
            package of another version, to be run in place of this one. With `own_timeouts` its store gives up as in
            production; otherwise a machine that stalls doesn't make it (`patience`), but for the `timeouts` given by
            the names of their constants.

    Attributes:
        url: such as `http://127.0.0.1:40123`; the same after a restart.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__()
        variables = cast("Mapping[str, str]", settings.pop("environment", {}))
        timeouts = cast("Mapping[str, float]", settings.pop("timeouts", {}))
        is_patient = not settings.pop("own_timeouts", "folder" in settings)
        self._environment = {**(environment(timeouts) if is_patient else {}), **variables}
        self._launcher = cast("Sequence[str]", settings.pop("launcher", ()))
        self._folder = cast("Path | None", settings.pop("folder", None))
        descriptors = settings.pop("descriptors", None)
        self._settings = {"port": 0 if "unix_socket" in settings else free_port(), **settings}
        self._limited = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}:{descriptors}"]
        self.url = ""

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None, self.url
        return port

    def start(self) -> None:
        """Start it, and wait until it listens; the second time on the same port."""
        flags = [f"--{name.replace('_', '-')}={_flag(value)}" for name, value in self._settings.items()]
        self._last = ChildProcess(
            [*self._limited, *self._launcher, sys.executable, "-m", "broker", "serve", *flags],
            env={**_inherited(), **self._environment},
            cwd=self._folder,  # where `-m` looks first
        )
        self._process.wait_until_up(lambda: LISTENING.search(self.output), START_SECONDS)
        found = LISTENING.search(self.output)
        assert found
        self.url = found[1]
        if not self.url.startswith("unix:"):
            self._settings["port"] = self.port

    def terminate(self) -> int:
        """SIGTERM; returns the exit status after the drain."""
        return self._process.terminate()

    def resident_bytes(self) -> int:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def publish(self, topic: str, data: str | bytes, **query: str) -> str:
        """Publish one event and return its id."""
        body = data.encode() if isinstance(data, str) else data
        answer = exchange(self.port, request("POST", f"/topics/{topic}?{urlencode(query)}", body=body))
        assert answer.status == 201, answer
        return str(answer.json()["id"])

    def empty(self) -> None:
        """Delete all topics, and wait until all subscribers are gone."""
        for topic in exchange(self.port, request("GET", "/topics?limit=1000", JSON)).json()["topics"]:
            deleted = exchange(self.port, request("DELETE", f"/topics/{quote(topic['topic'], safe='')}"))
            assert deleted.status == 204, deleted
        wait_for(lambda: self.metric("broker_subscribers") == 0, "the subscribers to be gone")

    def metric(self, name: str, token: str = "") -> float:
        """The value of a metric, labels and all: `broker_closes_total{reason="slow"}`; 0 if it is missing.

        Args:
            token: of an administrator, if the broker has keys.
        """
        headers = [f"Authorization: Bearer {token}"] if token else []
        answer = exchange(self.port, request("GET", "/metrics", *headers))
        assert answer.status == 200, answer
        for line in answer.body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


class SharedBrokers:
    """Brokers that several tests use in turn, one for each set of settings; a context manager."""

    def __init__(self) -> None:
        self._made: dict[str, BrokerProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for broker in self._made.values():
            broker.__exit__(None, None, None)

    def get(self, **settings: object) -> BrokerProcess:
        """One that runs, has no topic and no subscriber. The test may end or restart it; it may have counted for others."""
        broker = self._made.get(repr(settings))
        if broker is None or not broker.running:
            broker = self._made[repr(settings)] = BrokerProcess(**settings)
            broker.start()
        broker.empty()
        return broker


def _flag(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}


def run_serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `broker serve` to its end; of its settings, only `flags` and `environment` are set."""
    return subprocess.run(
        [sys.executable, "-m", "broker", "serve", *flags],
        capture_output=True,
        text=True,
        env={**_inherited(), **environment},
        timeout=WAIT_SECONDS,
        check=False,
    )


def refused_start(*flags: str, **environment: str) -> str:
    """The one line that `broker serve` prints when it can't start."""
    done = run_serve(*flags, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line
