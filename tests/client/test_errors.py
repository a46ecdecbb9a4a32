"""What the errors of both clients say about a server that can't be used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from broker.client import BlockingClient, Client, PublishError
from tests.client.servers import ScriptedServer, answer
from tests.support.tls import tls_contexts

Publish = Callable[[str], Awaitable[PublishError]]


async def by_client(url: str) -> PublishError:
    async with Client(url, patience_seconds=0) as client:
        with pytest.raises(PublishError) as raised:
            await client.publish("a", "x")
    return raised.value


async def by_blocking_client(url: str) -> PublishError:
    def publish() -> PublishError:
        with BlockingClient(url, patience_seconds=0) as client, pytest.raises(PublishError) as raised:
            client.publish("a", "x")
        return raised.value

    return await asyncio.to_thread(publish)


both = pytest.mark.parametrize("publish", [by_client, by_blocking_client])


@pytest.fixture
async def tls_url() -> AsyncIterator[str]:
    """A server with a certificate of an unknown authority."""

    def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context, _ = tls_contexts()
    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@both
async def test_a_certificate_that_is_not_trusted(publish: Publish, tls_url: str) -> None:
    error = await publish(tls_url)
    assert error.code == "unreachable"
    assert "its certificate is not trusted: " in error.detail
    assert "_ssl.c" not in error.detail


@both
async def test_https_to_a_server_without_tls(publish: Publish) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer("400 Bad Request"))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        error = await publish(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert error.code == "unreachable"
    assert error.detail.endswith(": it does not speak TLS there; use http://.")


@both
async def test_a_host_without_an_address(publish: Publish) -> None:
    error = await publish("http://nowhere.invalid")
    assert error.code == "unreachable"
    assert "Errno" not in error.detail


@both
@pytest.mark.parametrize(
    ("status", "asked"),
    [("404 Not Found", True), ("501 Not Implemented", True), ("502 Bad Gateway", False)],
)
async def test_a_refusal_that_is_no_brokers(publish: Publish, status: str, asked: bool) -> None:
    async with ScriptedServer(answer(status)) as server:
        error = await publish(server.url)
    assert error.detail.startswith(f"The response was {status}, without a reason from the broker")
    assert error.detail.endswith("; is there a broker at this URL?") is asked
