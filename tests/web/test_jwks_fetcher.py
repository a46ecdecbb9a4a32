"""Keys fetched from another server, which may be down, slow, or taken over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from broker.auth.tokens import Verifier
from broker.web import jwks_fetcher
from broker.web.aiohttp_adapter import SERVICES
from tests.support.http import read_answer
from tests.support.local_broker import Serve, Server
from tests.support.ports import free_port
from tests.support.tokens import HMAC, Signer, signer
from tests.support.waiting import WAIT_SECONDS, until
from tests.web.streamed_body import StreamedBody, events

OLD, NEW = signer("ES256"), signer("EdDSA")


class KeyServer:
    """Serves `keys`, or `answer` if set; counts the requests."""

    def __init__(self) -> None:
        self.keys: object = [OLD.jwk(kid="old")]
        self.answer: web.StreamResponse | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/jwks.json", self._serve)
        app.router.add_get("/evil.json", self._evil)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        await self.gate.wait()
        return self.answer or web.json_response({"keys": self.keys})

    async def _evil(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": [NEW.jwk(kid="evil")]})


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    await server.start()
    yield server
    server.gate.set()
    await server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches follow each other at once."""
    monkeypatch.setattr(jwks_fetcher, "MIN_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(jwks_fetcher, "RETRY_SECONDS", 0.02)


async def publish(server: Server, token: str) -> int:
    answer = await server.request("POST", "/topics/a", b"x", authorization=f"Bearer {token}")
    return answer.status


def token(key: Signer, kid: str | None) -> str:
    claims = {"broker": {"publish": ["**"]}}
    return key.sign(claims) if kid is None else key.sign(claims, kid=kid)


async def readiness(server: Server) -> tuple[int, Any]:
    answer = await server.request("GET", "/readyz")
    return answer.status, answer.json()["checks"]["keys"]


async def until_ready(server: Server) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while (await readiness(server))[0] != 200:
            await asyncio.sleep(0.01)


async def test_fetched_keys_verify(serve: Serve, key_server: KeyServer) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    assert await publish(server, token(OLD, "old")) == 201
    assert await publish(server, token(OLD, None)) == 201
    assert await publish(server, token(NEW, "old")) == 401
    assert await publish(server, HMAC.token(["**"])) == 401
    assert (await server.request("POST", "/topics/a", b"x")).status == 401


async def test_fetched_keys_beside_configured_keys(serve: Serve, key_server: KeyServer) -> None:
    server = await serve(jwks_url=key_server.url, jwt_secrets=json.dumps([HMAC.material]))
    await until_ready(server)
    assert await publish(server, HMAC.token(["**"])) == 201
    assert await publish(server, token(OLD, "old")) == 201


async def test_a_new_key_is_fetched_when_a_token_names_it(
    serve: Serve, key_server: KeyServer, impatient: None
) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    key_server.keys = [NEW.jwk(kid="new")]
    assert await publish(server, token(NEW, "new")) == 201
    assert await publish(server, token(OLD, "old")) == 401, "it is in the set no longer"


@pytest.mark.uncompiled
async def test_a_token_of_nobody_is_verified_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone can send such tokens. Where no keys are fetched, another try with the same ones can't help."""
    verified, calls = Verifier._verified, 0

    def counted(self: Verifier, text: str) -> object:
        nonlocal calls
        calls += 1
        return verified(self, text)

    monkeypatch.setattr(Verifier, "_verified", counted)
    server = await serve(jwt_secrets=json.dumps([HMAC.material]))
    headers = {"authorization": f"Bearer {token(NEW, None)}", "content_type": "text/plain"}
    for method in ("GET", "POST") * 3:  # from the second on, the head is known
        calls = 0
        assert (await server.request(method, "/topics/a", **headers)).status == 401
        assert calls == 1, method


async def test_unknown_keys_are_fetched_once_in_a_while(serve: Serve, key_server: KeyServer) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    statuses = await asyncio.gather(*(publish(server, token(NEW, f"kid{n}")) for n in range(30)))
    assert set(statuses) == {401}
    assert key_server.asked == 1, "it was asked a moment ago"


async def test_requests_that_need_a_key_share_one_fetch(
    serve: Serve, key_server: KeyServer, impatient: None
) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    asked = key_server.asked
    key_server.gate.clear()
    key_server.keys = [NEW.jwk(kid="new")]
    waiting = [asyncio.create_task(publish(server, token(NEW, "new"))) for _ in range(20)]
    await until(lambda: key_server.asked == asked + 1, "a request needs the keys")
    assert await publish(server, token(OLD, "old")) == 201, "no other request waits"
    key_server.gate.set()
    assert set(await asyncio.gather(*waiting)) == {201}
    assert key_server.asked == asked + 1


async def test_while_the_server_is_down_known_keys_stay(
    serve: Serve, key_server: KeyServer, impatient: None
) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    await key_server.stop()
    assert await publish(server, token(NEW, "new")) == 401
    assert await publish(server, token(OLD, "old")) == 201
    assert await readiness(server) == (200, "ok")
    key_server.keys = [NEW.jwk(kid="new")]
    await key_server.start()
    assert await publish(server, token(NEW, "new")) == 201


async def test_a_start_without_the_server_is_not_ready_until_it_is_there(
    serve: Serve, key_server: KeyServer, impatient: None
) -> None:
    await key_server.stop()
    server = await serve(jwks_url=key_server.url)
    status, why = await readiness(server)
    assert (status, "jwks_url" in why) == (503, True)
    assert await publish(server, token(OLD, "old")) == 401
    await key_server.start()
    await until_ready(server)
    assert await publish(server, token(OLD, "old")) == 201


BAD: dict[str, object] = {
    "no JSON": web.Response(text="<html>"),
    "no UTF-8": web.Response(body=b"\xff\xfe"),
    "deep": web.Response(text="[" * 100_000),
    "a list": web.json_response([]),
    "keys are an object": web.json_response({"keys": {}}),
    "keys are none": web.json_response({"keys": [1, "x", None, []]}),
    "too many": web.json_response({"keys": [NEW.jwk(kid=f"evil{n}") for n in range(33)]}),
    "huge": web.Response(body=b'{"keys": [' + b" " * (jwks_fetcher.MAX_BYTES + 1) + b"]}"),
    "not found": web.Response(status=404),
    "error": web.Response(status=500),
    "redirect": web.Response(status=302, headers={"Location": "/evil.json"}),
    "compressed": web.Response(body=b"\x1f\x8b" + b"\0" * 100, headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_set_changes_nothing(
    serve: Serve, key_server: KeyServer, impatient: None, name: str
) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    asked, key_server.answer = key_server.asked, _fresh(BAD[name])
    assert await publish(server, token(NEW, "evil")) == 401
    assert key_server.asked == asked + 1
    assert await publish(server, token(OLD, "old")) == 201
    assert await readiness(server) == (200, "ok")


async def test_answers_do_not_name_the_url_of_the_keys(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    server = await serve(jwks_url=f"http://localhost:{port}/keys.json")
    await until(lambda: str(port) in caplog.text, "it is logged for the operator")
    answer = await server.request("GET", "/readyz")
    assert answer.status == 503
    assert "localhost" not in str(answer.body)
    assert str(port) not in str(answer.body)


def _fresh(answer: object) -> web.Response:
    """An answer that can be sent: one is for one request."""
    assert isinstance(answer, web.Response)
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


async def test_a_slow_server_times_out(
    serve: Serve, key_server: KeyServer, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    monkeypatch.setattr(jwks_fetcher, "FETCH_SECONDS", 0.1)
    key_server.gate.clear()
    assert await publish(server, token(NEW, "new")) == 401
    assert await publish(server, token(OLD, "old")) == 201


async def test_a_set_with_one_good_key_among_others(serve: Serve, key_server: KeyServer) -> None:
    key_server.keys = [
        {"kty": "oct", "k": "AAAA" * 20, "kid": "secret"},
        {"kty": "new", "kid": "x"},
        OLD.jwk(kid="encryption", use="enc"),
        OLD.jwk(kid="old", use="sig", alg="ES256"),
    ]
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    assert await publish(server, token(OLD, "old")) == 201
    assert await publish(server, token(OLD, "encryption")) == 401


async def test_it_ends_with_the_application(serve: Serve, key_server: KeyServer) -> None:
    key_server.gate.clear()
    server = await serve(jwks_url=key_server.url)
    await until(lambda: key_server.asked == 1, "the fetch is underway")
    await server.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("broker keys")]


# A key that is withdrawn


def bearer(key: Signer, kid: str | None) -> dict[str, str]:
    rights = {"publish": ["**"], "subscribe": ["**"], "admin": True}
    claims = {"broker": rights}
    signed = key.sign(claims) if kid is None else key.sign(claims, kid=kid)
    return {"authorization": f"Bearer {signed}"}


async def replace_keys(server: Server, key_server: KeyServer, *keys: object) -> None:
    """Serve these keys and NEW, and have them fetched: a token names an unknown one."""
    key_server.keys = [NEW.jwk(kid="new"), *keys]
    assert await publish(server, token(NEW, "nobody's")) == 401


@pytest.mark.parametrize("kid", ["old", None])
async def test_a_withdrawn_key_ends_the_streams_it_let_in(
    serve: Serve, key_server: KeyServer, impatient: None, kid: str | None
) -> None:
    server = await serve(jwks_url=key_server.url, jwt_secrets=json.dumps([HMAC.material]))
    await until_ready(server)
    stream = await server.subscribe("/topics/a", **bearer(OLD, kid))
    other = await server.subscribe("/topics/a", **bearer(HMAC, None))
    await replace_keys(server, key_server)
    assert b'event: broker.expired\ndata: {"reason":"revoked"}\n' in await stream.end()
    assert await publish(server, token(OLD, kid)) == 401, "though it was verified before"
    await server.publish("a", "more", **bearer(HMAC, None))
    assert await other.data(1) == ["more"], "its key is configured"


UNUSABLE: dict[str, list[object]] = {
    "no keys": [],
    "only secrets": [{"kty": "oct", "k": "AAAA" * 20, "kid": "evil"}],
    "weak keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "evil"}],
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_a_set_without_usable_keys_withdraws_all(
    serve: Serve, key_server: KeyServer, impatient: None, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    server = await serve(jwks_url=key_server.url, jwt_secrets=json.dumps([HMAC.material]))
    await until_ready(server)
    stream = await server.subscribe("/topics/a", **bearer(OLD, "old"))
    key_server.keys = UNUSABLE[name]
    assert await publish(server, token(NEW, "evil")) == 401
    assert b'event: broker.expired\ndata: {"reason":"revoked"}\n' in await stream.end()
    assert await publish(server, token(OLD, "old")) == 401
    assert await publish(server, token(HMAC, None)) == 201, "its key is configured"
    assert "no key that can verify tokens; no token" in caplog.text
    assert await readiness(server) == (200, "ok")
    key_server.keys = [OLD.jwk(kid="old")]
    assert await publish(server, token(OLD, "old")) == 201


async def test_a_key_that_stays_ends_nothing(serve: Serve, key_server: KeyServer, impatient: None) -> None:
    """Also under another id, for a token that names none."""
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    named = await server.subscribe("/topics/a", **bearer(OLD, "old"))
    unnamed = await server.subscribe("/topics/a", **bearer(OLD, None))
    await replace_keys(server, key_server, OLD.jwk(kid="old"))
    await server.publish("a", "one", **bearer(NEW, "new"))
    assert await named.data(1) == ["one"]
    await replace_keys(server, key_server, OLD.jwk(kid="renamed"))
    await named.end()
    await server.publish("a", "two", **bearer(NEW, "new"))
    assert await unnamed.data(2) == ["one", "two"]


async def test_a_withdrawn_key_ends_the_streamed_bodies_it_let_in(
    serve: Serve, key_server: KeyServer, impatient: None
) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    stream = await server.subscribe("/topics/b", **bearer(OLD, "old"))
    body = await StreamedBody.open(server, "/topics/b", **bearer(OLD, "old"))
    await body.send(events("one"))
    await stream.data(1)
    await replace_keys(server, key_server)
    await body.send(events("two"))
    answer = await body.answer()
    assert (answer.status, answer.json()["published"]) == (401, 1)


async def test_a_withdrawn_key_ends_a_streamed_body_that_pauses(
    serve: Serve, key_server: KeyServer, impatient: None
) -> None:
    """Else it would keep its topic's lease for as long as it likes."""
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    stream = await server.subscribe("/topics/b", **bearer(OLD, "old"))
    body = await StreamedBody.open(server, "/topics/b?end=on-disconnect", **bearer(OLD, "old"))
    await body.send(events("one"))
    await stream.data(1)
    await replace_keys(server, key_server)
    answer = await body.answer()
    assert (answer.status, answer.json()["published"]) == (401, 1)


@pytest.mark.parametrize(
    ("target", "content"), [("/topics/a", b"late"), ("/admin/disconnect", b'{"topic": "a"}')]
)
async def test_a_key_that_is_withdrawn_while_the_body_arrives(
    serve: Serve, key_server: KeyServer, impatient: None, target: str, content: bytes
) -> None:
    server = await serve(jwks_url=key_server.url)
    await until_ready(server)
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer(OLD, 'old')['authorization']}\r\n"
    reader, writer = await server.send(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:2])
    await until(lambda: len(server._runner.app[SERVICES].bodies._waits) == 1, "its handler reads the body")
    await replace_keys(server, key_server)
    writer.write(content[2:])
    assert (await read_answer(reader)).status == 401


async def test_a_malformed_url_is_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """It may have a password."""
    await serve(jwks_url="https://user:secret@host:99999/jwks.json")
    await until(lambda: "jwks_url: the URL is not valid" in caplog.text, "it is reported")
    assert "secret" not in caplog.text
