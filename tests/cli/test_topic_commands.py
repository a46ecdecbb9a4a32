"""`broker topics`, `events`, `end`, `cancel` and `delete` as a shell runs them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from broker.client import BlockingClient, Cancelled
from tests.cli.commands import Command, run, without
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import WAIT_SECONDS, wait_for


def ran(broker: BrokerProcess, *words: str) -> str:
    """The output of a command that succeeds without a message."""
    done = run(broker.url, *words)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def lines_of(broker: BrokerProcess, *words: str) -> list[str]:
    return ran(broker, *words).splitlines()


# topics


def test_topics_are_listed_with_their_figures(broker: BrokerProcess) -> None:
    last_id = broker.publish("shown.b", "12345")
    broker.publish("shown.a", "x", end="true")
    head, first, second = lines_of(broker, "topics")
    assert head.split() == ["EVENTS", "BYTES", "SUBSCRIBERS", "STATE", "LAST", "EVENT", "TOPIC"]
    assert re.fullmatch(r" +1 +\d+ +0  closed  \d{4}-\d\d-\d\dT[\d:.]+Z  shown\.a", first)
    assert second.endswith("  shown.b")
    assert " open " in second
    states = {state["topic"]: state for state in map(json.loads, lines_of(broker, "topics", "--json"))}
    second_state = states["shown.b"]
    assert (second_state["last_id"], second_state["events"], second_state["closed"]) == (last_id, 1, False)


def test_without_topics_nothing_is_printed() -> None:
    with BrokerProcess() as broker:
        assert ran(broker, "topics") == ran(broker, "topics", "--json") == ""


def test_topics_need_a_grant() -> None:
    with BrokerProcess(jwt_secrets=json.dumps([SECRET])) as guarded:
        done = run(guarded.url, "topics", "--token", HMAC.token(["**"]))
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"(forbidden)" in done.stderr
        done = run(guarded.url, "topics")
        assert b"(unauthorized)" in done.stderr
        assert f"the URL {guarded.url} comes from BROKER_URL\n".encode() in done.stderr


def test_output_into_a_program_that_exits(broker: BrokerProcess) -> None:
    for number in range(300):
        broker.publish(f"topics.{number}", "x")
    with Command(broker.url, "topics", "--json") as command:
        assert command.process.stdout is not None
        command.process.stdout.close()
        assert command.process.wait(WAIT_SECONDS) in (0, 1)
        assert command.err == []


# events


def test_events_are_printed_oldest_first(broker: BrokerProcess) -> None:
    ids = [broker.publish("a", text) for text in ("one", "two\nlines", "drei ü")]
    assert ran(broker, "events", "a") == "one\ntwo\nlines\ndrei ü\n"
    assert lines_of(broker, "events", "a", "--last", "1") == ["drei ü"]
    assert lines_of(broker, "events", "a", "--cursor", ids[1]) == ["drei ü"]
    assert lines_of(broker, "events", "a", "--limit", "1") == ["one"]
    assert lines_of(broker, "events", "a", "--before", ids[2], "--limit", "1") == ["two", "lines"]
    assert ran(broker, "events", "none") == ""


def test_events_of_several_topics_and_as_json(broker: BrokerProcess) -> None:
    ids = [broker.publish("a", "1"), broker.publish("b", "2", event="t")]
    assert lines_of(broker, "events", "a", "b") == ["a\t1", "b\t2"]
    first, second = (json.loads(line) for line in lines_of(broker, "events", "a", "b", "--json"))
    assert (first["topic"], first["id"], first["event"], first["data"]) == ("a", ids[0], None, "1")
    assert (second["event"], second["time"][-1]) == ("t", "Z")


def test_all_events_are_printed_page_by_page(broker: BrokerProcess) -> None:
    with BlockingClient(broker.url) as client, client.stream("a", retain="24h") as stream:
        for number in range(2500):
            stream.send(str(number))
    assert lines_of(broker, "events", "a") == [str(number) for number in range(2500)]
    assert lines_of(broker, "events", "a", "--limit", "1200") == [str(number) for number in range(1200)]


TOPIC_PAGE = {
    "topics": [
        {
            "topic": "a",
            "subscribers": 0,
            "events": 1,
            "bytes": 1,
            "first_id": "1-0",
            "last_id": "1-0",
            "closed": False,
        }
    ],
    "next": "a",
}
EVENTS_PAGE = {
    "events": [{"topic": "a", "id": "1-0", "event": None, "time": "", "data": "x"}],
    "cursor": "1-0", "more": True, "gap": None, "closed": False,
}  # fmt: skip


class SamePages(BaseHTTPRequestHandler):
    """Answers every request for a page with the same one, after which there is always more."""

    def do_GET(self) -> None:
        page = EVENTS_PAGE if "/events" in self.path else TOPIC_PAGE
        body = json.dumps(page).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """It is never read."""


@pytest.mark.parametrize("words", [["events", "a"], ["topics"]])
def test_a_server_whose_pages_never_end_is_left(words: list[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SamePages) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            done = run(f"http://127.0.0.1:{server.server_port}", *words)
        finally:
            server.shutdown()
    assert done.returncode == 1
    assert b"(unexpected)" in done.stderr
    assert len(done.stdout.splitlines()) <= 2 + 1  # the head of the list


def test_a_gap_is_told(shared_brokers: SharedBrokers) -> None:
    broker = shared_brokers.get(retention_events=1)
    ids = [broker.publish("a", text) for text in "123"]
    done = run(broker.url, "events", "a", "--cursor", ids[0], "--json")
    assert done.stderr.decode() == f"broker events: gap in a after {ids[0]}: trimmed\n"
    gap, event = (json.loads(line) for line in done.stdout.splitlines())
    assert (gap["event"], gap["id"], event["data"]) == ("broker.gap", None, "3")
    assert json.loads(gap["data"]) == {"topic": "a", "after": ids[0], "reason": "trimmed"}


# end, cancel, delete


def test_topics_are_closed_with_a_reason(broker: BrokerProcess) -> None:
    broker.publish("a", "x")
    assert ran(broker, "end", "a", "b", "--reason", "failed") == ""
    with BlockingClient(broker.url) as client:
        for topic in ("a", "b"):
            *_, end = client.follow(topic, ends=True)
            assert '"failed"' in end.data
    assert ran(broker, "end", "a") == "", "harmless"
    done = run(broker.url, "end", "a", "--reason", "cancelled")
    assert (done.returncode, b"invalid-parameter" in done.stderr) == (1, True)


def test_a_producer_is_cancelled(broker: BrokerProcess) -> None:
    with BlockingClient(broker.url) as client, pytest.raises(Cancelled), client.stream("a") as stream:
        stream.send("x")
        wait_for(lambda: client.history("a").events, "the stream has begun")
        assert ran(broker, "cancel", "a", "nobody.produces") == ""
        wait_for(stream.check, "it never returns true")


def test_topics_are_deleted(broker: BrokerProcess) -> None:
    for topic in ("a", "b", "c"):
        broker.publish(topic, "x", end="true")
    assert ran(broker, "delete", "a", "b") == ""
    broker.publish("a", "open again")
    assert lines_of(broker, "events", "a") == ["open again"]
    assert lines_of(broker, "events", "c") == ["x"]


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("YES", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_it_asks_before_it_deletes(broker: BrokerProcess, answer: str, status: int) -> None:
    broker.publish("a", "x")
    with Command(broker.url, "delete", "a", terminal="stdin") as command:
        command.type_line(answer)
        assert command.wait() == status
    assert lines_of(broker, "events", "a") == ([] if status == 0 else ["x"])
    question = f"Delete all events of a at {broker.url}? [y/N] "
    refused = ["" if status == 0 else "broker delete: nothing was deleted"]
    assert b"".join(command.err).decode() == question + refused[0]


def test_yes_asks_nothing(broker: BrokerProcess) -> None:
    broker.publish("a", "x")
    with Command(broker.url, "delete", "a", "--yes", terminal="stdin") as command:
        assert command.wait() == 0
        assert command.err == []


# Mistakes


@pytest.mark.parametrize(
    "words",
    [
        ["topics", "a"],
        ["events"],
        ["events", "a b"],
        ["events", "a", "--limit", "0"],
        ["events", "a", "--limit", "x"],
        ["events", "a", "--last", "1", "--since", "1h"],
        ["end"],
        ["cancel"],
        ["delete"],
        ["completion"],
        ["completion", "cmd"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: list[str]) -> None:
    done = run("http://127.0.0.1:1", *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert re.fullmatch(rb"broker(?: \w+)?: [^\n]+\n", done.stderr)


@pytest.mark.parametrize(
    "words", [["topics"], ["events", "a"], ["end", "a"], ["cancel", "a"], ["delete", "a"]]
)
def test_an_unreachable_broker_is_named_with_the_source_of_its_url(words: list[str]) -> None:
    wanted = [*words, "--url", "http://127.0.0.1:1"]
    with ThreadPoolExecutor() as pool:  # `end` tries for 10 s
        by_variable = pool.submit(run, "http://127.0.0.1:1", *words)
        by_option = pool.submit(run, "http://127.0.0.1:2", *wanted)
    for done, source in (
        (by_variable.result(), "comes from BROKER_URL"),
        (by_option.result(), "comes from --url"),
    ):
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode() == (
            f"broker {words[0]}: No answer from http://127.0.0.1:1: Connection refused. (unreachable); "
            f"the URL http://127.0.0.1:1 {source}\n"
        )


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", "powershell"])
def test_a_completion_script_has_the_commands_and_their_options(shell: str) -> None:
    done = run("", "completion", shell)
    assert (done.returncode, done.stderr) == (0, b"")
    script = done.stdout.decode()
    for word in ("publish", "topics", "delete", "retain"):
        assert word in script


def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "broker.bash"
    script.write_bytes(run("", "completion", "bash").stdout)

    def completed(*words: str) -> list[str]:
        program = (
            f"source {script}; COMP_WORDS=(broker {' '.join(words)}); COMP_CWORD={len(words)}; "
            '$(complete -p broker | sed "s/.*-F \\([^ ]*\\) .*/\\1/"); printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return sorted(done.stdout.split())

    assert completed("to") == ["token", "topics"]
    assert completed("delete", "--y") == ["--yes"]
    assert "--reason" in completed("end", "--")


def test_without_shtab_it_says_how_to_install_it(tmp_path: Path) -> None:
    done = run("", "completion", "bash", variables=without(tmp_path, "shtab"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"broker completion: the package shtab is missing: pip install shtab\n"
