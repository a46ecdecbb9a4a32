"""One run: starts everything, disturbs and measures in turn."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from tests.bench.soak.clients import Load, all_clients
from tests.bench.soak.faults import Faults, server_in
from tests.bench.soak.samples import Samples, measure
from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST, read_answer, request
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import valkey
from tests.support.waiting import WAIT_SECONDS

SETTLE_SECONDS = 3.0
QUIET_SECONDS = 6.0
SETTINGS: dict[str, object] = {
    "retention_events": 200,
    "retention_bytes": 65_536,
    "retention_seconds": 60,
    "max_topics": 300,
    "log_memory_bytes": 8_000_000,
    "slow_seconds": 4,
    "heartbeat_seconds": 4,
    "drain_seconds": 1,
    "producer_timeout_seconds": 3,
    "max_age_seconds": 120,
    "log_format": "json",
}


@dataclass(slots=True)
class Soak:
    """What a run has found.

    Attributes:
        faults: how often each happened.
        errors: what the measured broker logged as an error.
    """

    seconds: float
    samples: Samples
    counts: Counter[str]
    faults: Counter[str]
    errors: list[str]


async def soak(
    seconds: float, *, scale: float = 1.0, seed: int = 1, progress: Callable[[float], None] = lambda _: None
) -> Soak:
    """Run for about `seconds`. Needs the Valkey server of the extra `embedded`."""
    program = valkey()
    assert program is not None, "the extra `embedded` is installed"
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        server = stack.enter_context(server_in(directory / "store", program))
        proxy = await stack.enter_async_context(RedisProxy(server))
        brokers = [BrokerProcess(redis_url=proxy.url, own_timeouts=True, **SETTINGS) for _ in range(2)]
        for broker in brokers:
            stack.callback(broker.__exit__, None, None, None)
            await asyncio.to_thread(broker.start)
        measured, other = brokers
        load = Load(measured.port, other.port, random.Random(seed))
        found = Soak(seconds, Samples(), load.counts, Counter(), [])
        faults = Faults(server, proxy, other).all()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client) for client in all_clients(load, scale)]
            began_at = loop.time()
            for name in cycle(faults):
                await faults[name]()
                found.faults[name] += 1
                for broker in brokers:
                    await _ready(broker.port)
                await asyncio.sleep(SETTLE_SECONDS)
                sample = await measure(
                    measured.pid, measured.port, load.latencies, loop.time() + QUIET_SECONDS
                )
                found.samples.add(loop.time() - began_at, sample)
                progress(loop.time() - began_at)
                if loop.time() - began_at >= seconds:
                    break
            for task in tasks:
                task.cancel()
        found.seconds = loop.time() - began_at
        found.errors = [
            line
            for line in measured.output.splitlines()
            if '"level": "error"' in line or '"critical"' in line
        ]
        assert measured.running, measured.output[-2000:]
    return found


async def _ready(port: int) -> None:
    """Return once a broker is ready again."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(request("GET", "/readyz", "Connection: close"))
            answer = await read_answer(reader)
            writer.close()
            if answer.status == 200:
                return
            await asyncio.sleep(0.1)
