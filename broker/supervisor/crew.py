"""The workers of one supervisor: there are always as many as asked for, whoever dies or is renewed.

Rules: one slot a worker, with its sockets; whoever starts something in a slot holds its lock, so that there is one worker in
it, or for the length of a renewal two. Signals and the order of ending are `run`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import signal

from broker.process import Signals, StartError, asked_to_end
from broker.settings import Settings
from broker.supervisor.listeners import Listeners
from broker.supervisor.member import Member
from broker.supervisor.orders import Report
from broker.supervisor.restarts import Restarts

GRACE_SECONDS = 20.0
"""What a worker may take beyond its drain: for open requests, and where the machine is busy."""

_log = logging.getLogger("broker")


class Crew:
    """See the module.

    Args:
        settings: those of each worker; `workers` says how many there are.
    """

    def __init__(self, settings: Settings, listeners: Listeners) -> None:
        self._settings = settings.model_copy(update={"workers": 1})
        self._listeners = listeners
        self._members: list[Member] = []
        self._running: set[Member] = set()
        self._locks = [asyncio.Lock() for _ in range(settings.workers)]
        self._restarts = [Restarts() for _ in range(settings.workers)]
        self._patience = settings.drain_notice_seconds + settings.drain_seconds + GRACE_SECONDS

    # Life

    async def start(self) -> Report:
        """Start all of them, and return what one reports once all listen. Raises `StartError` as soon as one can't."""
        try:
            async with asyncio.TaskGroup() as group:
                starting = [group.create_task(self._start(slot)) for slot in range(len(self._locks))]
        except* StartError as errors:
            raise errors.exceptions[0] from None
        self._members = [task.result()[0] for task in starting]
        return starting[0].result()[1]

    async def keep(self) -> None:
        """Replace whoever dies, for ever."""
        async with asyncio.TaskGroup() as group:
            for slot in range(len(self._locks)):
                group.create_task(self._keep(slot))

    async def renew(self) -> None:
        """Renew all, one after the other: the successor listens before the worker is drained, and has ended before the next one.

        A successor that can't start ends it: whoever isn't renewed then goes on.
        """
        for slot, lock in enumerate(self._locks):
            async with lock:
                try:
                    successor, _ = await self._start(slot)
                except StartError as error:
                    _log.error("the workers are not renewed: %s", error)
                    return
                former, self._members[slot] = self._members[slot], successor
            former.leave(signal.SIGHUP)
            await self._see_off(former)
        _log.info("all workers are renewed")

    async def end(self, signals: Signals) -> None:
        """Drain all at once; the next signal that asks for the end breaks that off."""
        for member in self._running:
            member.leave(signal.SIGTERM)
        leaving = asyncio.ensure_future(self._see_all_off())
        again = asyncio.ensure_future(asked_to_end(signals))
        await asyncio.wait((leaving, again), return_when=asyncio.FIRST_COMPLETED)
        if again.done():
            self._send(signal.SIGTERM)
        again.cancel()
        await leaving

    async def kill(self) -> None:
        """End all now: they have not begun to serve."""
        self._send(signal.SIGKILL)
        await self._see_all_off()

    # One slot

    async def _start(self, slot: int) -> tuple[Member, Report]:
        member = await Member.start(self._settings_of(slot), self._listeners.of(slot))
        self._running.add(member)
        try:
            return member, await member.listening()
        except StartError:
            self._running.discard(member)
            raise

    def _settings_of(self, slot: int) -> Settings:
        """Those of all, but for what each worker needs one of its own."""
        port = self._settings.metrics_port
        return self._settings if not port else self._settings.model_copy(update={"metrics_port": port + slot})

    async def _keep(self, slot: int) -> None:
        while True:
            member = self._members[slot]
            status = await member.ended()
            async with self._locks[slot]:
                if self._members[slot] is member:  # else it was renewed, or is
                    self._running.discard(member)
                    _log.error("worker %d ended (%s) and is replaced", member.pid, _shown(status))
                    await self._replace(slot, member.lived_seconds)

    async def _replace(self, slot: int, lived_seconds: float) -> None:
        while True:
            if delay := self._restarts[slot].delay(lived_seconds):
                self._listeners.renew(slot)
                await asyncio.sleep(delay)
            try:
                self._members[slot], _ = await self._start(slot)
            except StartError as error:
                _log.error("a worker can't be replaced: %s", error)
                lived_seconds = 0.0
            else:
                _log.info("worker %d listens", self._members[slot].pid)
                return

    # All

    def _send(self, number: signal.Signals) -> None:
        for member in self._running:
            member.send(number)

    async def _see_all_off(self) -> None:
        await asyncio.gather(*[self._see_off(member) for member in self._running])

    async def _see_off(self, member: Member) -> None:
        """Return once it has ended, if need be by force."""
        try:
            async with asyncio.timeout(self._patience):
                await member.ended()
        except TimeoutError:
            _log.error("worker %d did not end within %.0f s: killed", member.pid, self._patience)
            member.send(signal.SIGKILL)
            await member.ended()
        self._running.discard(member)


def _shown(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
