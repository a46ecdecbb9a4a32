"""A broker in a process of its own, for tests whose claim is about a real server: killed, restarted, loaded.

Everything listens on loopback, on a port that was free; every wait is for a condition, with a bound.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_for

START_SECONDS = 20
STOP_SECONDS = 30


class BrokerProcess:
    """`broker serve` with the given settings, as `name=value`; a context manager.

    Not a setting is `descriptors`: how many it may have, where that is what a test is about.

    Attributes:
        url: such as `http://127.0.0.1:40123`; the same after a restart.
        output: all it printed so far.
    """

    def __init__(self, **settings: object) -> None:
        descriptors = settings.pop("descriptors", None)
        self._settings = {"port": 0, **settings}
        self._limited = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}:{descriptors}"]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.output = ""
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def start(self) -> None:
        """Start it, and wait until it says where it listens; a second time on the same port."""
        self.output = ""
        flags = [f"--{name.replace('_', '-')}={_flag(value)}" for name, value in self._settings.items()]
        self._process = subprocess.Popen(
            [*self._limited, sys.executable, "-m", "broker", "serve", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("BROKER_")},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(lambda: self._listening() or not self.running, "the broker's start line", START_SECONDS)
        found = self._listening()
        assert found, f"the broker did not start: {self.output}"
        self.url = found[1]
        self._settings["port"] = self.port

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line

    def _listening(self) -> re.Match[str] | None:
        return re.search(r"listening on (\S+?),", self.output)

    def terminate(self) -> int:
        """SIGTERM; the exit status after the drain."""
        self.send_signal(signal.SIGTERM)
        return self._wait()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: no drain."""
        assert self._process is not None
        self._process.kill()
        self._wait()

    def _wait(self) -> int:
        assert self._process is not None and self._reader is not None
        status = self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status

    def resident_bytes(self) -> int:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def publish(self, topic: str, data: str | bytes, **query: str) -> str:
        """Publish one event and return its id; raises `urllib.error.HTTPError` on anything but 2xx."""
        text = "&".join(f"{name}={value}" for name, value in query.items())
        body = data.encode() if isinstance(data, str) else data
        request = urllib.request.Request(f"{self.url}/topics/{topic}?{text}", body, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.loads(answer.read())["id"])

    def metric(self, name: str) -> float:
        """The value of a metric, labels and all: `broker_closes_total{reason="slow"}`; 0 where it has none yet."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.rsplit(" ", 1)[1])
        return 0.0


def _flag(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)


def run_serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `broker serve` to its end; of its settings, only `flags` and `environment` are set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    return subprocess.run(
        [sys.executable, "-m", "broker", "serve", *flags],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        timeout=60,
        check=False,
    )


def refused_start(*flags: str, **environment: str) -> str:
    """The one line that `broker serve` prints when it can't start."""
    done = run_serve(*flags, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line
