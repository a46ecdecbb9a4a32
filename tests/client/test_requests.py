"""The token of the client's requests: a fixed one, or one from a function."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from broker.client import Client, PublishError, SubscribeError
from tests.client.servers import CREATED, ScriptedServer, problem, rest, take
from tests.support.local_broker import Serve, Server
from tests.support.tokens import HMAC

ADMIN = HMAC.token(admin=True)


def token(number: int) -> str:
    return HMAC.token(["a"], ["a"], jti=str(number))


def tokens_in_turn(*tokens: str) -> Callable[[], Awaitable[str]]:
    """A function that returns one token after the other, then repeats the last one."""
    left = list(tokens)

    async def give() -> str:
        return left.pop(0) if len(left) > 1 else left[0]

    return give


@pytest.fixture
async def server(serve: Serve) -> Server:
    return await serve(jwt_secrets=json.dumps([HMAC.material]), retry_min_ms=10, retry_max_ms=30)


async def revoke(server: Server, number: int) -> None:
    answered = await server.request(
        "POST", "/admin/revoke", json.dumps({"jti": str(number)}).encode(), authorization=f"Bearer {ADMIN}"
    )
    assert answered.status == 202


async def test_the_token_function_is_called_before_each_request() -> None:
    passing = problem("503 Service Unavailable", "unavailable", "Retry-After: 0")
    async with (
        ScriptedServer(passing, CREATED) as server,
        Client(server.url, token=tokens_in_turn("1", "2", "3")) as client,
    ):
        await client.publish("a", "x")
        await client.publish("a", "x")
        assert [connection.headers["authorization"] for connection in server.accepted] == [
            "Bearer 1",
            "Bearer 2",
            "Bearer 3",
        ]


async def test_a_subscription_continues_with_the_next_token(server: Server) -> None:
    async with (
        Client(server.url, token=tokens_in_turn(token(1), token(2))) as client,
        client.subscribe("a") as events,
    ):
        await revoke(server, 1)
        await server.publish("a", "x", authorization=f"Bearer {token(3)}")
        assert [event.data for event in await take(events, 1)] == ["x"]


async def test_a_revoked_token_ends_a_subscription_with_an_error(server: Server) -> None:
    async with Client(server.url, token=token(1)) as client, client.subscribe("a") as events:
        await server.publish("a", "x", authorization=f"Bearer {token(3)}")
        assert len(await take(events, 1)) == 1
        await revoke(server, 1)
        with pytest.raises(SubscribeError) as caught:
            await take(events, 1)
        assert (caught.value.code, caught.value.status) == ("unauthorized", 401)
        assert await rest(events) == []


async def test_each_request_carries_the_token(server: Server) -> None:
    async with Client(server.url, token=tokens_in_turn(token(1))) as client:
        await client.publish("a", "1")
        await client.publish_lines("a", ["2"])
        await client.cancel("a")
        async with client.stream("a") as stream:
            await stream.send("3")
        assert [event.data async for event in client.follow("a") if event.type is None] == ["1", "2", "3"]


@pytest.mark.parametrize("given", ["", "no token"])
async def test_without_a_valid_token_nothing_is_retried(server: Server, given: str) -> None:
    async with Client(server.url, token=given) as client:
        with pytest.raises(PublishError) as published:
            await client.publish("a", "x")
        with pytest.raises(SubscribeError) as subscribed:
            await client.subscribe("a").connect()
        assert (published.value.status, subscribed.value.status) == (401, 401)


async def test_an_exception_of_the_token_function_is_raised(server: Server) -> None:
    async def give() -> str:
        raise LookupError("logged out")

    async with Client(server.url, token=give) as client:
        with pytest.raises(LookupError):
            await client.publish("a", "x")
        with pytest.raises(LookupError):
            await client.subscribe("a").connect()
        with pytest.raises(LookupError):
            async with client.stream("a") as stream:
                await stream.send("x")
