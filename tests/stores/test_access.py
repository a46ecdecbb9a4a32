"""Rights on a server, connections to it, and brokers that share it."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from pathlib import Path
from time import time

import pytest
import trustme
from redis import Redis

from broker.node.commands import Disconnect, encode
from broker.stores.redis.connections import _warn_of_losses
from tests.stores.brokers import StartBroker, StartPair, numbers, until_not_ready, until_ready
from tests.stores.conftest import StartServer, find_program
from tests.support.local_broker import Server as Broker
from tests.support.patience import own_timeouts, timeouts
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import Server
from tests.support.waiting import WAIT_SECONDS, until

GUIDE = Path(__file__).parents[2] / "deploy" / "guides" / "many-instances.md"
PASSWORD = "s3cret-of-the-test"
REPLICAS_MS = 100
"""Enough where no replica can answer."""


def acl(*without: str) -> list[str]:
    """The guide's ACL line, without some words."""
    (line,) = re.findall(r"^ACL SETUSER .*$", GUIDE.read_text(), re.MULTILINE)
    words = line.replace(">PASSWORD", f">{PASSWORD}").split(" ")
    assert set(without) <= set(words)
    return [word for word in words if word not in without]


def rights() -> set[str]:
    """The commands that the line allows, named as in INFO commandstats."""
    return {word[1:] for word in acl() if word.startswith("+")}


def used(client: Redis) -> set[str]:
    stats = client.info("commandstats")
    return {
        name.removeprefix("cmdstat_")
        for name, calls in stats.items()
        if calls["calls"] - calls["rejected_calls"]
    }


def url_of(server: Server, user: str = "broker") -> str:
    return f"unix://{user}:{PASSWORD}@{server.path}"


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if "refuse" in record.getMessage() or "doesn't let" in record.getMessage()
    ]


def serve(*flags: str) -> tuple[int, list[str]]:
    """Exit status and output of a `broker serve` that ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "broker", "serve", "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


# Rights


async def work(one: Broker, other: Broker, proxy: RedisProxy, client: Redis) -> None:
    """Everything that a broker does to its store, which `client` is connected to."""
    stream = await other.subscribe("/topics/a")
    for number in range(20):
        assert (
            await one.request("POST", "/topics/a", b"%d" % number, Idempotency_Key=f"k{number}")
        ).status == 201
    await stream.until(lambda: numbers(stream) == list(range(20)))
    replay = await other.subscribe("/topics?topic=a&topic=b&since=earliest")
    assert await replay.data(1)
    # Lost answers, so that old connections are ended and retries look for their first attempt.
    for size in range(4_000, 24_000, 2_000):
        proxy.cut_after(size)
        answers = await asyncio.gather(*(one.request("POST", "/topics/b", b"x" * 1000) for _ in range(20)))
        assert {answer.status for answer in answers} == {201}
    for topic in "cdefgh":
        await one.publish(topic, "x")
    await until(lambda: client.keys("broker:{b}:subs:*"), "the counts of the subscribers are written")
    for path in ("/topics", "/topics/a", "/admin/topics", "/admin/topics/a"):
        assert (await one.request("GET", path, Accept="application/json")).status == 200
    await one.node._store.broadcast.send(encode(Disconnect(0, topic="nobody")), time() + 1)
    await replay.close()
    await until(lambda: not other.subscribers_of("b"), "it has left")
    assert (await one.request("DELETE", "/topics/a")).status == 204
    await stream.until(lambda: any(event.type == "broker.end" for event in stream.events))
    for broker in (one, other):
        await broker.node._store.topics.forget()  # type: ignore[attr-defined]
        broker.node._store.logs.drop("b")  # type: ignore[attr-defined]
    await until(lambda: "hdel" in used(client), "the counts that are gone are deleted")
    await until_ready(one, other)


async def test_the_documented_rights_are_sufficient_and_necessary(
    start_server: StartServer, start_pair: StartPair, caplog: pytest.LogCaptureFixture
) -> None:
    primary = start_server("appendonly yes", tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    replica.wait_synced()
    with primary.client(db=1) as client:
        client.execute_command(*acl())
        client.config_resetstat()
        async with RedisProxy(primary) as proxy:
            url = proxy.url.replace("redis://", f"redis://broker:{PASSWORD}@") + "/1"
            settings = {"redis_wait_replicas": 1, "max_topics": 1, "retention_bytes": 4096}
            one, other = await start_pair(url, **settings)
            await until_ready(one, other)
            await work(one, other, proxy, client)
            await one.stop()
        assert refusals(caplog) == []
        await until(lambda: rights() <= used(client), "all of them are used")


@pytest.mark.parametrize(
    ("right", "logged"),
    [
        ("+evalsha", "refuses read: NOPERM"),
        ("+publish", "refuses"),
        ("+xadd", "refuses publish"),
        ("+sadd", "refuses EVAL"),
        ("+wait", "refuses WAIT"),
        ("+subscribe", "refuses the subscription"),
        ("&broker:*", "refuses"),
        ("~broker:{b}:*", "refuses"),
    ],
)
async def test_the_log_names_a_missing_right(
    start_server: StartServer,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    right: str,
    logged: str,
) -> None:
    server = start_server()
    with server.client() as client:
        client.execute_command(*acl(right))
    with timeouts(REPLICAS_MS=REPLICAS_MS, WATCH_SECONDS=0.2), caplog.at_level(logging.WARNING):
        broker = await start_broker(url_of(server), redis_wait_replicas=1)
        assert (await broker.request("POST", "/topics/a", b"x")).status == 503
        refused = await broker.subscribe("/topics/a")
        assert refused.status == 200
        await until(lambda: any(logged in line for line in refusals(caplog)), logged)
    assert len(refusals(caplog)) < 30, "not at every call"


async def test_a_missing_right_to_end_connections_is_only_logged(
    start_server: StartServer, start_broker: StartBroker, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    with server.client() as client:
        client.execute_command(*acl("+client|kill"))
    async with RedisProxy(server) as proxy:
        broker = await start_broker(proxy.url.replace("redis://", f"redis://broker:{PASSWORD}@"))
        while not refusals(caplog):
            proxy.cut_after(6_000)
            answers = await asyncio.gather(
                *(broker.request("POST", "/topics/a", b"x" * 1000) for _ in range(20))
            )
            assert {answer.status for answer in answers} == {201}
    assert "refuses to end our own previous connection" in refusals(caplog)[0]


@pytest.mark.parametrize("right", ["", "+info", "+client|id"])
def test_a_refused_instance_does_not_start(start_server: StartServer, right: str) -> None:
    """It doesn't wait either: an instance that has waited starts without the store."""
    server = start_server()
    with server.client() as client:
        client.execute_command(*acl(*filter(None, [right])))
    url = url_of(server) if right else f"unix://broker:wrong-{PASSWORD}@{server.path}"
    status, (line,) = serve("--redis-url", url)
    assert status == 1
    assert line.startswith(f"broker: redis_url: unix://{server.path} refuses access: ")
    assert PASSWORD not in line


def test_a_password_that_is_missing(start_server: StartServer) -> None:
    server = start_server(f"requirepass {PASSWORD}")
    status, (line,) = serve("--redis-url", server.url)
    assert (status, "refuses access" in line) == (1, True)


@pytest.mark.parametrize("url", ["", "localhost", "redis://:hid/den@h:1", "redis+sentinel://h"])
def test_a_bad_url_is_a_bad_setting(url: str) -> None:
    status, (line,) = serve("--redis-url", url)
    assert status == 2
    assert line.startswith("broker: redis_url: ")
    assert "hid" not in line


# Connections


async def test_a_password_alone(start_server: StartServer, start_broker: StartBroker) -> None:
    server = start_server(f"requirepass {PASSWORD}", tcp=True)
    for url in (server.url, server.tcp_url):
        broker = await start_broker(url.replace("://", f"://:{PASSWORD}@"))
        await until_ready(broker)
        assert PASSWORD not in broker.node.store_name


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    """PEM files of a server on loopback."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    return files


async def test_tls(tmp_path: Path, tls: dict[str, Path], start_broker: StartBroker) -> None:
    with Server(tmp_path / "0", find_program("redis"), tls=tls) as server:
        broker = await start_broker(f"{server.tls_url}?ssl_ca_certs={tls['ca']}")
        await until_ready(broker)
        stream = await broker.subscribe("/topics/a")
        big = "x" * 200_000
        await broker.publish("a", big)
        assert await stream.data(1) == [big]
        await broker.stop()


async def test_answers_do_not_name_the_store(
    start_server: StartServer, start_broker: StartBroker, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    broker = await start_broker(server.url)
    await until_ready(broker)
    server.kill()
    texts = str(await until_not_ready(broker))
    with timeouts(CALL_SECONDS=0.2, WATCH_SECONDS=0.2):  # what they give up can't succeed
        refused = await broker.request("POST", "/topics/a", b"x")
        assert (refused.status, refused.json()["code"]) == (503, "unavailable")
        texts += str(refused.body)
        texts += str((await broker.request("GET", "/topics/a", accept="*/*")).body)
    for secret in (str(server.path), server.path.parts[1], "redis"):
        assert secret not in texts
    assert str(server.path) in caplog.text, "it is logged for the operator"


async def test_tls_with_an_untrusted_certificate(
    tmp_path: Path, tls: dict[str, Path], start_broker: StartBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(tmp_path / "0", find_program("redis"), tls=tls) as server:
        with timeouts(START_SECONDS=0.2):
            broker = await start_broker(server.tls_url)
        await until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text, "it has tried to connect")
        checks = (await broker.request("GET", "/readyz")).json()["checks"]
        assert "certificate" in str(checks)


# Brokers that share a server


@pytest.mark.parametrize("apart", ["prefix", "database"])
async def test_two_brokers_on_one_server_are_isolated(
    start_server: StartServer, start_broker: StartBroker, apart: str
) -> None:
    server = start_server()
    one = await start_broker(server.url, redis_prefix="one:")
    other = (
        await start_broker(server.url, redis_prefix="other:")
        if apart == "prefix"
        else await start_broker(f"{server.url}?db=1", redis_prefix="one:")
    )
    streams = [await broker.subscribe("/topics/a") for broker in (one, other)]
    both = await other.subscribe("/topics?topic=a&topic=b")
    for number in range(5):
        await one.publish("a", str(number))
        await other.publish("a", str(10 + number))
        await one.request("POST", "/topics/k", b"1", Idempotency_Key="k")
        answer = await other.request("POST", "/topics/k", b"1", Idempotency_Key="k")
        assert ("idempotency-replayed" in answer.headers) is (number > 0)
    await streams[0].until(lambda: len(numbers(streams[0])) == 5)
    assert numbers(streams[0]) == [0, 1, 2, 3, 4]
    for stream in (streams[1], both):
        assert await stream.data(5) == ["10", "11", "12", "13", "14"]
    await one.request("DELETE", "/topics/a")
    await one.publish("only", "x")
    await other.publish("a", "15")
    await streams[1].until(lambda: numbers(streams[1])[-1] == 15)
    assert streams[1].gaps() == []
    listed = (await other.request("GET", "/topics", Accept="application/json")).json()["topics"]
    assert isinstance(listed, list)
    assert sorted(topic["topic"] for topic in listed) == ["a", "b", "k"]
    assert {topic["topic"]: topic["subscribers"] for topic in listed}["a"] == 2


# Replicas


async def test_201_waits_for_the_replicas(start_server: StartServer, start_broker: StartBroker) -> None:
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    replica.wait_synced()
    broker = await start_broker(primary.url, redis_wait_replicas=1)
    with replica.client() as copy:
        for number in range(20):
            await broker.publish("a", str(number))
            assert copy.xlen("broker:{b}:log:a") == number + 1
    replica.pause()
    with timeouts(REPLICAS_MS=REPLICAS_MS):
        for _ in range(2):  # the second is a replay, and waits for the replicas too
            answer = await broker.request("POST", "/topics/a", b"20", Idempotency_Key="k")
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    replica.resume()
    answer = await broker.request("POST", "/topics/a", b"20", Idempotency_Key="k")
    assert (answer.status, answer.headers.get("idempotency-replayed")) == (201, "true")
    with replica.client() as copy:
        assert copy.xlen("broker:{b}:log:a") == 21


REPEATED: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "key": ("/topics/a", b"x", {"Idempotency_Key": "k"}),
    "sequence": (
        "/topics/a",
        b'{"data": "x"}\n',
        {"Content_Type": "application/x-ndjson", "Broker_Producer": "p", "Broker_Sequence": "1"},
    ),
    "end": ("/topics/a?end=true", b"", {}),
}


@pytest.mark.parametrize("kind", REPEATED)
async def test_i7_a_repeated_publish_waits_for_the_replicas_on_any_instance(
    start_server: StartServer, start_broker: StartBroker, kind: str
) -> None:
    """The other instance's connection has written nothing, so there would be nothing for WAIT to wait for."""
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    replica.wait_synced()
    one, other = [await start_broker(primary.url, redis_wait_replicas=1) for _ in range(2)]
    target, body, headers = REPEATED[kind]
    replica.pause()
    with timeouts(REPLICAS_MS=REPLICAS_MS):
        for broker in (one, other, other):
            answer = await broker.request("POST", target, body, **headers)
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    replica.resume()
    answer = await other.request("POST", target, body, **headers)
    assert answer.status in {200, 201}
    with replica.client() as copy:
        assert copy.xlen("broker:{b}:log:a") == (kind != "end")
        assert copy.exists("broker:{b}:rec:a")


async def test_i7_a_publish_whose_connection_is_cut_while_it_waits_for_the_replicas_waits_again(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    primary = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=primary)
    replica.wait_synced()
    broker = await start_broker(primary.url, redis_wait_replicas=1)
    replica.pause()
    with own_timeouts(), primary.client() as client:
        publishing = asyncio.ensure_future(broker.request("POST", "/topics/a", b"x"))
        await until(lambda: client.xlen("broker:{b}:log:a") == 1, "it has run")
        client.client_kill_filter(_type="normal", skipme=True)
        answer = await publishing
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    replica.resume()


async def test_reads_do_not_wait_for_replicas(start_server: StartServer, start_broker: StartBroker) -> None:
    """Without replicas each publisher waits; subscribers are not delayed."""
    broker = await start_broker(start_server().url, redis_wait_replicas=1)
    with timeouts(REPLICAS_MS=REPLICAS_MS):
        publishing = [asyncio.ensure_future(broker.request("POST", "/topics/a", b"x")) for _ in range(3)]
        assert {answer.status for answer in await asyncio.gather(*publishing)} == {503}
    waiting = [asyncio.ensure_future(broker.request("POST", "/topics/b", b"x")) for _ in range(3)]
    for topic in "ab":
        stream = await broker.subscribe(f"/topics/{topic}?since=earliest")
        assert await stream.data(3) == ["x"] * 3
    assert not any(publisher.done() for publisher in waiting)
    for publisher in waiting:
        publisher.cancel()
    await asyncio.wait(waiting)


# Warnings at the start


@pytest.mark.parametrize(
    ("config", "warnings"),
    [
        ((), ["append-only"]),
        (("appendonly yes",), []),
        (("appendonly yes", "maxmemory-policy allkeys-lru"), ["maxmemory-policy is allkeys-lru"]),
    ],
)
async def test_warnings_of_a_server_that_loses_events(
    start_server: StartServer,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    config: tuple[str, ...],
    warnings: list[str],
) -> None:
    await start_broker(start_server(*config).url)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == len(warnings)
    assert all(warning in line for warning, line in zip(warnings, lines, strict=True))


def test_a_cluster_node_with_our_slot_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_losses({"aof_enabled": "1", "cluster_enabled": "0"})
    assert not caplog.records
    _warn_of_losses({"aof_enabled": "1", "cluster_enabled": "1"})
    assert "Redis Cluster, which isn't supported" in caplog.text
