"""Healthy load on two brokers that Prometheus watches: no alert may fire.

`python -m tests.alerts.healthy --minutes 10`. The brokers share a Valkey server, and nginx is in front of them, with its file of
`deploy/`; one has two workers. Streams come, go, and come back with their cursors; events, bursts and token streams are
published. Brokers are restarted as in an upgrade: each drains and is started again, and before that the second one replaces its
workers (SIGHUP). Prometheus has its files of `deploy/`: it scrapes every 5 s and evaluates the alerts every 15 s.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from broker.client import Client
from tests.alerts.prometheus import Prometheus
from tests.bench.soak.clients import TOPICS, Load, bursting, passing, polling, publishing, staying, tokens
from tests.live.proxies import Nginx
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.process_tree import workers
from tests.support.redis_servers import Server, valkey
from tests.support.waiting import wait_for

STREAMS = 200
"""That stay. Some alerts hold only above a hundred."""
LONG_STREAMS, LONG_TOKENS, LONG_TOKEN_SECONDS = 8, 100, 0.4
SETTINGS: dict[str, object] = {"drain_notice_seconds": 3, "drain_seconds": 10, "log_format": "json"}
WORKERS = (1, 2)
SCRAPE_SECONDS, EVALUATION_SECONDS = 5, 15
"""As in the file."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run has found.

    Attributes:
        firing, pending: at how many evaluations each alert was in this state.
        scrapes: of each broker, failed ones too.
        unhealthy_rules: those that Prometheus could not evaluate.
        load: requests and events, by kind.
    """

    seconds: float
    firing: Mapping[str, int]
    pending: Mapping[str, int]
    scrapes: Mapping[str, int]
    unhealthy_rules: list[str]
    load: Counter[str]


async def long_tokens(load: Load, url: str, number: int) -> None:
    """Token streams that a drain can't wait for: the client continues each on another broker."""
    async with Client(url) as client:
        for answer in count():
            async with client.stream(f"long.{number}.{answer}") as stream:
                for token in range(LONG_TOKENS):
                    await stream.send(f"token {token}")
                    await asyncio.sleep(LONG_TOKEN_SECONDS)
            load.counts["long token streams"] += 1


def clients(load: Load, url: str) -> list[Coroutine[Any, Any, None]]:
    """Those of a service that is well. Each `polling` and `passing` client makes some requests a second."""
    numbers = count()
    return [
        *(
            staying(load, load.measured, TOPICS[index % len(TOPICS)], is_timed=False)
            for index in range(STREAMS)
        ),
        *(passing(load) for _ in range(5)),
        *(polling(load) for _ in range(2)),
        *(publishing(load, 5) for _ in range(2)),
        bursting(load, 100),
        *(tokens(load, numbers, ["ends"]) for _ in range(3)),
        *(long_tokens(load, url, number) for number in range(LONG_STREAMS)),
    ]


async def run(seconds: float) -> Run:
    """Load for about `seconds`, over which the three restarts are spread."""
    program = valkey()
    assert program is not None, "the extra `embedded` is installed"
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="healthy-")))
        store = stack.enter_context(Server(folder / "store", program, "appendonly yes"))
        brokers = [
            stack.enter_context(BrokerProcess(redis_url=store.url, workers=number, **SETTINGS))
            for number in WORKERS
        ]
        for name in ("nginx", "prometheus"):
            (folder / name).mkdir()
        nginx = stack.enter_context(Nginx([broker.url for broker in brokers], folder / "nginx"))
        ports = [broker.port for broker in brokers]
        prometheus = stack.enter_context(Prometheus(ports, folder / "prometheus"))
        load = Load(nginx.port, nginx.port, random.Random(1))
        began_at = loop.time()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client) for client in clients(load, nginx.url)]
            one, with_workers = brokers
            restarts = [
                partial(restart, one),
                partial(replace_workers, with_workers),
                partial(restart, with_workers),
            ]
            for number, again in enumerate(restarts, 1):
                await asyncio.sleep(began_at + seconds * number / (len(restarts) + 1) - loop.time())
                await asyncio.to_thread(again)
            await asyncio.sleep(began_at + seconds - loop.time())
            took = loop.time() - began_at
            found = await asyncio.to_thread(_judged, prometheus, took, load)
            for task in tasks:
                task.cancel()
    return found


def restart(broker: BrokerProcess) -> None:
    """Drain it and start it again; returns when it is ready."""
    status = broker.terminate()
    assert status == 0, broker.output[-2000:]
    broker.start()
    wait_for(lambda: exchange(broker.port, request("GET", "/readyz")).status == 200, "the broker is ready")


def replace_workers(broker: BrokerProcess) -> None:
    """SIGHUP; returns when there are only new workers."""
    before = set(workers(broker))
    broker.send_signal(signal.SIGHUP)
    wait_for(
        lambda: len(workers(broker)) == len(before) and not before & {*workers(broker)}, "they are replaced"
    )


def _judged(prometheus: Prometheus, seconds: float, load: Load) -> Run:
    # A little longer than the run, for samples from before the first request.
    window = seconds + EVALUATION_SECONDS
    return Run(
        seconds,
        prometheus.evaluations("firing", window),
        prometheus.evaluations("pending", window),
        prometheus.samples("up", window),
        [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok"],
        load.counts,
    )


def report(found: Run) -> str:
    """The run in some lines."""
    done = ", ".join(f"{number} {kind}" for kind, number in sorted(found.load.items()))
    return "\n".join(
        [
            f"{found.seconds / 60:.1f} minutes of {done}",
            f"scrapes: {dict(found.scrapes)}",
            f"evaluations with a pending alert: {dict(found.pending) or 'none'}",
            f"evaluations with a firing alert: {dict(found.firing) or 'none'}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.alerts.healthy", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="default: 10")
    found = asyncio.run(run(parser.parse_args().minutes * 60))
    print(report(found))
    if found.unhealthy_rules:
        print(f"not evaluated: {found.unhealthy_rules}", file=sys.stderr)
    return 1 if found.firing or found.unhealthy_rules else 0


if __name__ == "__main__":
    sys.exit(main())
