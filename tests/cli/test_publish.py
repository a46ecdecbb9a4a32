"""`broker publish` as a shell runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.commands import Command, run, run_shell, without
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.http import JSON, exchange, request
from tests.support.waiting import wait_for

ID = rb"\d+-\d+"


def kept(broker: BrokerProcess, topic: str) -> list[tuple[str, str | None]]:
    """Data and type of the events that a topic keeps."""
    count = exchange(broker.port, request("GET", f"/topics/{topic}", JSON)).json()["events"]
    with Stream(broker.port, f"/topics/{topic}?since=earliest") as stream:
        return [(event.data, event.type) for event in stream.wait_for_events(count)]


def test_one_event_is_published_and_its_id_printed(broker: BrokerProcess) -> None:
    done = run(broker.url, "publish", "news", "hellö\nworld", "--event", "greeting")
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(ID + rb"\n", done.stdout)
    assert kept(broker, "news") == [("hellö\nworld", "greeting")]


def test_an_event_may_end_its_topic(broker: BrokerProcess) -> None:
    assert run(broker.url, "publish", "a", "first", "--retain", "2h").returncode == 0
    done = run(broker.url, "publish", "a", "last", "--end", "--reason", "failed")
    assert (done.returncode, done.stderr) == (0, b"")
    again = run(broker.url, "publish", "a", "", "--end", "--reason", "stopped")
    assert (again.returncode, again.stderr) == (0, b"")
    with Stream(broker.port, "/topics/a?since=earliest") as stream:
        body = stream.rest()
    assert b"data: first\n" in body
    assert b'event: broker.end\ndata: {"topic":"a","reason":"failed"}\n' in body


def test_a_refused_option_is_the_brokers_error(broker: BrokerProcess) -> None:
    for words in (["--end", "--reason", "cancelled"], ["--retain", "soon"]):
        done = run(broker.url, "publish", "a", "x", *words)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"invalid-parameter" in done.stderr


def test_the_option_url_takes_precedence_over_the_environment(broker: BrokerProcess) -> None:
    assert run("http://127.0.0.1:1", "publish", "news", "x", "--url", broker.url).returncode == 0


def test_the_port_of_the_broker_may_come_from_the_environment(broker: BrokerProcess) -> None:
    done = run("", "publish", "news", "x", variables={"BROKER_PORT": str(broker.port)})
    assert (done.returncode, done.stderr) == (0, b"")


def test_arguments_after_two_dashes_are_not_options(broker: BrokerProcess) -> None:
    assert run(broker.url, "publish", "news", "--", "--event").returncode == 0
    assert run(broker.url, "publish", "news", "").returncode == 0
    assert kept(broker, "news") == [("--event", None), ("", None)]


@pytest.mark.parametrize("words", [["-"], []], ids=["dash", "no data"])
def test_each_line_of_input_is_an_event(broker: BrokerProcess, words: list[str]) -> None:
    done = run(
        broker.url, "publish", "news", *words, "--event", "t", stdin="eins\nzwei ü\r\n\n-\nlast".encode()
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(rb"(?:" + ID + rb"\n){5}", done.stdout)
    assert kept(broker, "news") == [(line, "t") for line in ("eins", "zwei ü", "", "-", "last")]


def test_no_input_publishes_nothing(broker: BrokerProcess) -> None:
    for words in (["-"], ["-", "--ndjson"]):
        done = run(broker.url, "publish", "news", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_lines_are_published_as_they_come(broker: BrokerProcess) -> None:
    with Command(broker.url, "publish", "news", "-") as command:
        for number in range(1, 4):
            command.write(b"x\n")
            command.has_out(number)
            assert len(kept(broker, "news")) == number
        command.end_input()
        assert command.wait() == 0
        assert len(command.out) == 3


def test_ndjson_is_published_as_it_comes(broker: BrokerProcess) -> None:
    with Command(broker.url, "publish", "news", "-", "--ndjson") as command:
        for number, piece in enumerate(
            (b'{"data": 1}\n{"da', b'ta": 2}\n{"data"', b": 3}\n", b'{"data": 4}\n'), 1
        ):
            command.write(piece)
            wait_for(lambda: len(kept(broker, "news")) == number, f"{number} events")  # noqa: B023
        assert command.out == []
        command.end_input()
        assert command.wait() == 0
        assert len(command.out) == 2


def test_ndjson_prints_first_and_last_id(broker: BrokerProcess) -> None:
    done = run(
        broker.url,
        "publish",
        "news",
        "-",
        "--ndjson",
        stdin=b'{"data": "a", "event": "t"}\n{"data": {"b": 1}}\n{"data": 3}',
    )
    assert re.fullmatch(ID + rb"\n" + ID + rb"\n", done.stdout)
    assert kept(broker, "news") == [("a", "t"), ('{"b":1}', None), ("3", None)]
    done = run(broker.url, "publish", "news", '{"data": "one"}', "--ndjson")
    assert re.fullmatch(ID + rb"\n", done.stdout)


def test_lines_survive_a_restart_of_the_broker(broker: BrokerProcess) -> None:
    with Command(broker.url, "publish", "news", "-") as command:
        command.write(b"before\n")
        command.has_out(1)
        broker.kill()
        command.write(b"meanwhile\n")
        broker.start()
        command.write(b"after\n")
        command.end_input()
        assert command.wait() == 0
        assert (len(command.out), command.err) == (3, [])
    assert kept(broker, "news") == [("meanwhile", None), ("after", None)]


@pytest.mark.parametrize(
    ("words", "stdin", "says"),
    [
        (["_mine", "x"], b"", rb"Topics that start with '_' .*\(forbidden\)"),
        (["a", "x", "--event", "broker.x"], b"", rb"Event types .*\(invalid-parameter\)"),
        (["a", "-"], b"ok\n\xff\nok\n", rb"line 2: The body is not valid UTF-8.*\(invalid-body\)"),
        (["a", "-"], b"x" * 300_000, rb"line 1: .*\(too-large\)"),
        (["a", "-"], b"ok\n" + b"x" * (17 << 20), rb"line 2: it is longer than 16777216 bytes"),
        (["a", "-", "--ndjson"], b'{"data": 1}\n{"data": 2', rb"The line is not JSON.*\(invalid-body\).*"),
    ],
)
def test_a_refusal_is_one_line_and_status_1(
    broker: BrokerProcess, words: list[str], stdin: bytes, says: bytes
) -> None:
    done = run(broker.url, "publish", *words, stdin=stdin)
    assert done.returncode == 1
    assert re.fullmatch(rb"broker publish: " + says + rb"\n", done.stderr)


def test_arguments_that_are_not_utf8_are_refused(broker: BrokerProcess) -> None:
    for words, status in (([b"a", b"\xff"], 1), ([b"a", b"x", b"--event", b"\xff"], 2)):
        done = run(broker.url, "publish", *words)
        assert done.returncode == status
        assert re.fullmatch(rb"broker publish: [^\n]+\n", done.stderr)


def test_the_error_for_an_unreachable_broker_names_its_url_and_the_source() -> None:
    done = run("http://127.0.0.1:1", "publish", "a", "x")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "broker publish: No answer from http://127.0.0.1:1: Connection refused. (unreachable); "
        "the URL http://127.0.0.1:1 comes from BROKER_URL\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a b", "x"],
        ["a", "x", "y"],
        ["a", "x", "--url", "localhost"],
        ["a", "x", "--port", "1"],
        ["a", "-", "--ndjson", "--event", "t"],
        ["a", "-", "--ndjson", "--retain", "1h"],
        ["a", "-", "--end"],
        ["a", "--end"],
        ["a", "{}", "--ndjson", "--end"],
        ["a", "x", "--reason", "failed"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: list[str]) -> None:
    done = run("http://127.0.0.1:1", "publish", *words)
    assert done.returncode == 2
    assert re.fullmatch(rb"broker(?: publish)?: [^\n]+\n", done.stderr)


def test_terminal_without_data_is_wrong_usage(broker: BrokerProcess) -> None:
    with Command(broker.url, "publish", "a", terminal="stdin") as command:
        assert command.wait() == 2
        assert command.err == [b"broker publish: DATA is missing; use - to type lines"]


@pytest.mark.parametrize("ndjson", [False, True], ids=["lines", "ndjson"])
def test_ctrl_c_ends_it_with_130_and_no_message(broker: BrokerProcess, ndjson: bool) -> None:
    with Command(broker.url, "publish", "news", "-", *["--ndjson"] * ndjson) as command:
        command.write(b'{"data": 1}\n')
        wait_for(lambda: kept(broker, "news"), "the first event")
        command.interrupt()
        assert command.wait() == 130
        assert command.err == []


def test_progress_is_shown_on_a_terminal_only(broker: BrokerProcess, tmp_path: Path) -> None:
    for words, stdin in ((["-"], b"1\n2\n3\n"), (["-", "--ndjson"], b'{"data": 1}\n' * 3)):
        with Command(broker.url, "publish", "news", *words, terminal="stderr") as command:
            command.write(stdin)
            command.end_input()
            assert command.wait() == 0
            assert b"3 lines" in b"\n".join(command.err)
    source = tmp_path / "lines"
    source.write_bytes(b"x\n" * 10)
    with source.open("rb") as file:
        done = run(broker.url, "publish", "news", "-", stdin=file)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 10


def test_without_rich_it_publishes_without_a_bar_and_says_how_to_install_it(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    hidden = without(tmp_path, "rich", "hdrh")
    with Command(broker.url, "publish", "news", "-", terminal="stderr", variables=hidden) as command:
        command.write(b"1\n2\n")
        command.end_input()
        assert command.wait() == 0
        (line,) = command.err
        assert line.startswith(b"broker publish: no progress bar")
        assert b"pip install '.[bench]'" in line
    assert kept(broker, "news") == [("1", None), ("2", None)]
    assert run(broker.url, "publish", "news", "3", variables=hidden).stderr == b""


def test_it_exits_quietly_when_the_reader_of_the_ids_does(broker: BrokerProcess) -> None:
    done = run_shell(broker.url, "set +o pipefail; yes | broker publish news - | head -n 2")
    assert done.stdout.count(b"\n") == 2
    assert done.stderr == b""


def test_the_help_explains_the_input() -> None:
    done = run("", "publish", "--help")
    assert done.returncode == 0
    for text in (
        b"--ndjson",
        b"--event TYPE",
        b"--url URL",
        b"BROKER_URL",
        b"standard input",
        b"Exit status",
    ):
        assert text in done.stdout
