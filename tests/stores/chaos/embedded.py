"""One broker with `--workers` and `--data`: a supervisor, its workers and its own server.

Rules: the processes are found by the process table, for the supervisor starts them. If all of them are killed and the file is cut,
no process is left that has seen the lost events, and the broker must find out by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.stores.chaos.groups import AWAY_SECONDS, PAUSE_SECONDS, SETTINGS, Busy, Fault, Group, Stage
from tests.stores.chaos.processes import READY_SECONDS, LoggedBroker, poll
from tests.support.process_tree import data_server, descendants, is_running, workers

WORKERS = 2


class EmbeddedGroup(Group):
    """Two workers and their supervisor."""

    def __init__(self, stage: Stage) -> None:
        self.ledger = stage.ledger
        self.chance = stage.chance
        self.data = stage.directory / "data"
        self._losing = asyncio.Lock()
        self._workers_lock = asyncio.Lock()
        self.broker = LoggedBroker(
            **SETTINGS, retention_events=self.ledger.retention_events, data=self.data, workers=WORKERS
        )
        self.instances = [self.broker]

    def faults(self) -> dict[str, tuple[Fault, float]]:
        return {
            "worker killed": (self.kill_worker, 3),
            "worker paused": (self.pause_worker, 2),
            "supervisor killed": (self.kill_supervisor, 1),
            "supervisor stopped": (self.drain_instance, 1),
            "workers replaced": (self.replace_workers, 1),
            "server killed": (self.kill_server, 1),
            "server paused": (self.pause_server, 1),
            "connections killed: normal": (lambda: self.kill_connections("normal"), 3),
            "connections killed: pubsub": (lambda: self.kill_connections("pubsub"), 4),
            "scripts flushed": (self.flush_scripts, 1),
            "power cut": (self.cut_power, 1),
            "everything killed": (self.kill_everything, 1),
        }

    @property
    def server_lock(self) -> asyncio.Lock:
        return self.broker.lock

    def locks(self) -> list[asyncio.Lock]:
        return [self.broker.lock, self._workers_lock]

    async def start(self) -> None:
        await asyncio.to_thread(self.broker.start)
        await self.until_ready()

    async def stop(self) -> None:
        self.broker.__exit__(None, None, None)

    def defects(self) -> list[str]:
        return self.broker.defects()

    def client(self, **options: Any) -> Redis:
        return Redis(
            unix_socket_path=str(self.data / "socket"), protocol=2, retry=Retry(NoBackoff(), 0), **options
        )

    @contextlib.asynccontextmanager
    async def disturbing_worker(self) -> AsyncIterator[int]:
        """The id of a worker that nothing else disturbs."""
        if self.broker.lock.locked() or self._workers_lock.locked():
            raise Busy
        async with self._workers_lock:
            found = workers(self.broker)
            if not found:
                raise Busy
            yield self.chance.choice(found)

    async def kill_worker(self) -> None:
        async with self.disturbing_worker() as pid:
            os.kill(pid, signal.SIGKILL)
            await poll(
                lambda: not is_running(pid) and len(workers(self.broker)) == WORKERS,
                "a new worker",
                READY_SECONDS,
            )

    async def pause_worker(self) -> None:
        """The supervisor may replace it meanwhile."""
        async with self.disturbing_worker() as pid:
            await self.pause_process(pid)

    async def kill_supervisor(self) -> None:
        """Its workers and its server end with it; the server writes everything first."""
        async with self.disturbing_all():
            await asyncio.to_thread(self.broker.kill)
            await self.wait(AWAY_SECONDS)
            await asyncio.to_thread(self.broker.start)

    async def drain_instance(self) -> None:
        async with self.disturbing_all():
            status = await asyncio.to_thread(self.broker.terminate)
            if status != 0:
                self.ledger.fail(
                    f"the supervisor ended with status {status} at SIGTERM: {self.broker.output[-2000:]}"
                )
            await asyncio.to_thread(self.broker.start)

    async def replace_workers(self) -> None:
        async with self.disturbing_all():
            before = set(workers(self.broker))
            self.broker.send_signal(signal.SIGHUP)
            await poll(
                lambda: len(now := set(workers(self.broker))) == WORKERS and not now & before,
                "all workers are new",
                READY_SECONDS,
            )

    @contextlib.asynccontextmanager
    async def disturbing_all(self) -> AsyncIterator[None]:
        async with self.disturbing(self.broker), self._workers_lock:
            yield

    async def kill_server(self) -> None:
        """It flushes every second, so a busy disk may have delayed the last writes. The workers live on and know."""
        async with self.losing():
            os.kill(data_server(self.broker), signal.SIGKILL)

    async def pause_server(self) -> None:
        async with self.disturbing_all():
            await self.pause_process(data_server(self.broker))

    async def pause_process(self, pid: int) -> None:
        """Stop it for a while, or until it has ended."""
        os.kill(pid, signal.SIGSTOP)
        try:
            await self.wait(PAUSE_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def cut_power(self) -> None:
        """Everything ends at once, the file ends somewhere within the last second, and the machine starts anew."""
        async with self.losing():
            await self._end_everything()
            (self.data / "running").write_text("the machine's last start")
            for seen in (self.data / "seen").iterdir():  # written by the kernel, so perhaps not written
                seen.unlink()
            await asyncio.to_thread(self.broker.start)

    async def kill_everything(self) -> None:
        """Everything is killed, and the file lacks the end of its last second, as on a busy disk."""
        async with self.losing():
            await self._end_everything()
            await asyncio.to_thread(self.broker.start)

    async def _end_everything(self) -> None:
        async with self.cutting(self.data):
            processes = descendants(self.broker.pid)
            for pid in (self.broker.pid, *processes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await poll(lambda: not any(map(is_running, processes)), "all processes ended", READY_SECONDS)
            await asyncio.to_thread(self.broker.kill)
