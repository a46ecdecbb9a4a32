"""`broker subscribe` as a shell runs it."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest

from tests.cli.commands import Command, run, run_shell
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.waiting import WAIT_SECONDS


@pytest.fixture
def broker(shared_brokers: SharedBrokers) -> BrokerProcess:
    """A broker that asks its clients to reconnect soon."""
    return shared_brokers.get(retry_min_ms=10, retry_max_ms=50, drain_seconds=0.1)


def delete(broker: BrokerProcess, topic: str) -> None:
    request = urllib.request.Request(f"{broker.url}/topics/{topic}", method="DELETE")
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
        assert answer.status == 204


def test_data_is_printed_as_it_comes_until_the_topic_ends(broker: BrokerProcess) -> None:
    with Command(broker.url, "subscribe", "news") as command:
        command.says("connected to")
        for number, data in enumerate(("one", "zwei ü", "")):
            broker.publish("news", data)
            command.has_out(number + 1)
        delete(broker, "news")
        assert command.wait() == 0
        assert command.out == [b"one", "zwei ü".encode(), b""]
        assert command.err == [
            f"broker subscribe: connected to {broker.url}".encode(),
            b"broker subscribe: news has ended: deleted",
        ]


def test_each_event_of_several_topics_has_its_topic(broker: BrokerProcess) -> None:
    with Command(broker.url, "subscribe", "a", "b") as command:
        command.says("connected to")
        broker.publish("a", "1")
        broker.publish("b", "2")
        command.has_out(2)
        assert command.out == [b"a\t1", b"b\t2"]


@pytest.mark.parametrize("topics", [("a",), ("a", "b")])
def test_json_is_one_object_per_line(broker: BrokerProcess, topics: tuple[str, ...]) -> None:
    ids = [broker.publish("a", "x\ny"), broker.publish("a", '{"ü": 1}', event="t")]
    with Command(broker.url, "subscribe", *topics, "--since", "earliest", "--json") as command:
        command.has_out(2)
        first, second = (json.loads(line) for line in command.out)
    assert list(first) == ["topic", "id", "event", "time", "data"]
    assert (first["topic"], first["id"], first["event"], first["data"]) == ("a", ids[0], None, "x\ny")
    assert (second["topic"], second["id"], second["event"], second["data"]) == ("a", ids[1], "t", '{"ü": 1}')
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])


def test_the_start_can_be_chosen(broker: BrokerProcess) -> None:
    ids = [broker.publish("a", str(number)) for number in range(4)]
    for words, expected in (
        (["--since", "earliest"], [b"0", b"1", b"2", b"3"]),
        (["--since", "1h"], [b"0", b"1", b"2", b"3"]),
        (["--last", "2"], [b"2", b"3"]),
        (["--cursor", ids[2]], [b"3"]),
    ):
        with Command(broker.url, "subscribe", "a", *words) as command:
            command.has_out(len(expected))
            assert command.out == expected


def test_after_a_crash_of_the_broker_a_gap_comes_before_new_events(broker: BrokerProcess) -> None:
    with Command(broker.url, "subscribe", "a", "--json") as command:
        command.says("connected to")
        first = broker.publish("a", "before")
        command.has_out(1)
        broker.kill()
        command.says("; next attempt in ")
        broker.start()
        second = broker.publish("a", "after")
        command.has_out(3)
        command.says(f"gap in a after {first}: lost")
        command.interrupt()
        assert command.wait() == 130
        gap, event = (json.loads(line) for line in command.out[1:])
    assert (gap["event"], gap["id"], gap["time"]) == ("broker.gap", None, None)
    assert json.loads(gap["data"]) == {"topic": "a", "after": first, "reason": "lost"}
    assert (event["id"], event["data"]) == (second, "after")


def test_a_gap_is_not_printed_as_data(broker: BrokerProcess) -> None:
    broker.publish("a", "x")
    with Command(broker.url, "subscribe", "a", "--cursor", "no-id") as command:
        command.has_out(1)
        command.says("gap in a after no-id: unknown-id")
        assert command.out == [b"x"]


def test_it_waits_until_the_broker_has_started(broker: BrokerProcess) -> None:
    broker.kill()
    with Command(broker.url, "subscribe", "a") as command:
        command.says(f"{broker.url}: no answer: Connection refused; next attempt in 3.0 s")
        command.says(f"the URL {broker.url} comes from BROKER_URL")
        broker.start()
        command.says("connected to")
        broker.publish("a", "x")
        command.has_out(1)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["a", "--since", "soon"], 1, rb"'since' takes .*\(invalid-parameter\)"),
        (["a", "--last", "-1"], 1, rb"'last' takes .*\(invalid-parameter\)"),
        (
            [f"t{number}" for number in range(33)],
            1,
            rb"A request may name at most 32 topics\. \(invalid-parameter\)",
        ),
        ([], 2, rb".*TOPIC.*"),
        (["a", "b/c"], 2, rb".*A topic is .*"),
        (["a", "--last", "x"], 2, rb".*--last.*"),
        (["a", "--last", "1", "--since", "1h"], 2, rb".*not allowed with.*"),
        (["a", "--url", "localhost:8080"], 2, rb".*is not the URL of a broker.*"),
        (["a", "--cursor", "ü"], 2, rb".*is not a cursor.*"),
    ],
)
def test_an_error_is_one_line(broker: BrokerProcess, words: list[str], status: int, says: bytes) -> None:
    done = run(broker.url, "subscribe", *words)
    assert (done.returncode, done.stdout) == (status, b"")
    assert re.fullmatch(rb"broker subscribe: " + says + rb"\n", done.stderr)


def test_ctrl_c_ends_it_with_130_and_no_message(broker: BrokerProcess) -> None:
    with Command(broker.url, "subscribe", "a") as command:
        command.says("connected to")
        command.interrupt()
        assert command.wait() == 130
        assert len(command.err) == 1


def test_it_exits_quietly_when_its_reader_does(broker: BrokerProcess) -> None:
    for number in range(5):
        broker.publish("a", str(number))
    done = run_shell(broker.url, "broker subscribe a --since earliest | head -n 2")
    assert done.stdout == b"0\n1\n"
    assert done.stderr.count(b"\n") == 1


def test_it_exits_when_its_reader_does_also_without_events(broker: BrokerProcess) -> None:
    run_shell(broker.url, "broker subscribe a | true")


def test_control_characters_are_not_printed_to_a_terminal(broker: BrokerProcess) -> None:
    broker.publish("a", "\x1b[2Jx\ty\x9b")
    with Command(broker.url, "subscribe", "a", "--since", "earliest", terminal="stdout") as command:
        command.has_out(1)
        assert command.out == ["\ufffd[2Jx\ty\ufffd".encode()]
    with Command(broker.url, "subscribe", "a", "--since", "earliest") as command:
        command.has_out(1)
        assert command.out == ["\x1b[2Jx\ty\x9b".encode()]


def test_the_help_explains_the_formats() -> None:
    done = run("", "subscribe", "--help")
    assert done.returncode == 0
    for text in (
        b"--since WHEN",
        b"--last N",
        b"--cursor ID",
        b"--json",
        b"--url URL",
        b"broker.gap",
        b"Exit status",
    ):
        assert text in done.stdout
