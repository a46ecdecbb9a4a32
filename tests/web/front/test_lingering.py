"""The end of a connection: its client can read the last answer, whatever it still sends; bounded in time and bytes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from broker.process.app import create_app
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.front import lingering
from broker.web.front.front import Front
from broker.web.runner import Runner
from tests.support.http import HOST
from tests.support.raw_client import RawClient
from tests.support.tls import listen_securely, tls_contexts
from tests.support.waiting import until

CONTEXT, TRUSTING = tls_contexts()
Connect = Callable[..., RawClient]
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
NEXT = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nbegun"
MALFORMED = b"\xff\r\n\r\n"


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    made = Runner(create_app(Settings()), access_log=None, shutdown_timeout=1)
    await made.setup()
    yield made
    await made.cleanup()


@pytest.fixture
def front(runner: Runner) -> Front:
    assert runner.front is not None
    return runner.front


@pytest.fixture(params=["plain", "tls"])
async def connect(request: pytest.FixtureRequest, runner: Runner) -> AsyncIterator[Connect]:
    """Makes clients."""
    if request.param == "tls":
        listening, port = await listen_securely(runner, CONTEXT)
        yield lambda **options: RawClient(port, TRUSTING, **options)
        listening.close()
    else:
        await web.TCPSite(runner, HOST, 0).start()
        yield lambda **options: RawClient(runner.addresses[0][1], **options)


def requests(runner: Runner) -> float | None:
    return runner.app[SERVICES].node.metrics.registry.get_sample_value("broker_request_connections")


@pytest.mark.parametrize(
    ("sent", "status"), [(LAST, 200), (LAST + NEXT * 1000, 200), (REFUSED, 404), (MALFORMED, 400)]
)
async def test_an_answer_can_be_read_whatever_comes_behind_it(
    connect: Connect, front: Front, sent: bytes, status: int
) -> None:
    async with connect() as client:
        await client.send(sent)
        await until(lambda: front.lingering, "the answer to be sent")
        for _ in range(20):  # to a closed socket, this would be a reset
            await client.send(NEXT * 500)
        received = await client.rest()
    assert re.match(rb"HTTP/1.1 %d " % status, received), received
    assert received.count(b"HTTP/1.") == 1
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    await until(lambda: not front.lingering, "its end")


@pytest.mark.parametrize("sent", [LAST, b"GET /healthz HTTP/1.0\r\n\r\n"])
async def test_the_end_comes_with_the_answer(
    connect: Connect, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads until the end need not wait for a time-out."""
    monkeypatch.setattr(lingering, "SECONDS", 600)
    async with connect() as client:
        await client.send(sent)
        assert (await client.rest()).startswith(b"HTTP/1.")


@pytest.mark.parametrize("connect", ["tls"], indirect=True)
@pytest.mark.parametrize("sent", [LAST, LAST + NEXT, REFUSED, MALFORMED])
async def test_tls_ends_with_a_notice(connect: Connect, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "SECONDS", 0.05)
    async with connect() as client:
        await client.send(sent)
        assert (await client.rest()).startswith(b"HTTP/1.")
        assert client.has_notice


@pytest.mark.parametrize("sent", [LAST, REFUSED])
async def test_a_client_that_does_not_close_is_closed(
    connect: Connect, runner: Runner, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "SECONDS", 0.05)
    async with connect() as client:
        await client.send(sent)
        await until(lambda: requests(runner) == 1, "the connection")
        await until(lambda: requests(runner) == 0, "its end")


async def test_a_client_that_does_not_read_its_last_answer_is_closed(
    connect: Connect, runner: Runner, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "SECONDS", 0.05)
    metrics = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with connect(receive_buffer=2048) as client:
        await client.send(metrics + metrics.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await until(lambda: front.lingering, "the answer")
        await until(lambda: requests(runner) == 0, "its end")


@pytest.mark.parametrize("sent", [LAST + NEXT, REFUSED])
async def test_a_client_that_goes_on_and_on_is_cut_off(
    connect: Connect, runner: Runner, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "SECONDS", 600)
    monkeypatch.setattr(lingering, "MAX_BYTES", 1 << 20)
    async with connect() as client:
        await client.send(sent)
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                await client.send(b"x" * 100_000)
        await until(lambda: requests(runner) == 0, "its end")


async def test_a_half_closed_client_gets_its_last_answer(runner: Runner) -> None:
    await web.TCPSite(runner, HOST, 0).start()
    async with RawClient(runner.addresses[0][1]) as client:
        await client.send(NEXT + LAST)
        client.half_close()
        assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 2
        await until(lambda: requests(runner) == 0, "its end")


async def test_the_shutdown_cuts_who_does_not_close(
    connect: Connect, runner: Runner, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "SECONDS", 600)
    async with connect() as client:
        await client.send(REFUSED)
        await until(lambda: front.lingering, "the answer")
        runner.shorten_shutdown()
        await runner.cleanup()
        assert not front.lingering
        with contextlib.suppress(ConnectionError):
            await client.rest()


async def test_lingering_clients_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "SECONDS", 600)
    monkeypatch.setattr("broker.process.app.available_descriptors", lambda: 10)
    runner = Runner(create_app(Settings()), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(30):
            client = await stack.enter_async_context(RawClient(runner.addresses[0][1]))
            await client.send(REFUSED)
            assert (await client.read()).startswith(b"HTTP/1.1 404 ")
        count = requests(runner)
        assert count is not None
        assert count <= 10
    await runner.cleanup()
    assert asyncio.all_tasks() == {asyncio.current_task()}
