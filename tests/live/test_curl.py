"""curl: the bytes of contract §3 as they are on the wire, and a publisher that pipes."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.support.broker_process import BrokerProcess
from tests.support.child_process import ChildProcess
from tests.support.cutting_proxy import Cut, CuttingProxy
from tests.support.http import JSON, Connection, exchange, request
from tests.support.waiting import wait_for

SECONDS = 20
ID = rb"\d{13}-\d+"
OPENING = rb'retry: (\d+)\n:\nevent: broker\.open\ndata: {"topics":\["news"\]}\nid: ' + ID + rb"\n\n"


class Curl(ChildProcess):
    """A curl that runs."""

    def __init__(self, curl: str, *arguments: str) -> None:
        command = [curl, "--silent", "--show-error", "--noproxy", "*", *arguments]
        super().__init__(command, stdin=subprocess.PIPE, stderr=None)

    def wait_for_end(self, end: bytes) -> bytes:
        """Its output, once that ends with `end`. Not for streams with heartbeats."""
        wait_for(lambda: self.printed.endswith(end), f"{end!r} at the end of {self.printed!r}")
        return self.printed

    def wait_for_part(self, part: bytes) -> bytes:
        """Its output up to the first `part`, once that is there."""
        wait_for(lambda: part in self.printed, f"{part!r} in {self.printed!r}")
        return self.printed[: self.printed.index(part) + len(part)]


@pytest.mark.parametrize("flag", ["-N", "--no-buffer"])
def test_stream_is_these_bytes(curl: str, flag: str, broker: BrokerProcess) -> None:
    with Curl(curl, flag, f"{broker.url}/topics/news") as reader:
        opening = reader.wait_for_end(b"\n\n")
        match = re.fullmatch(OPENING, opening)
        assert match, opening
        assert 2000 <= int(match[1]) <= 5000
        ids = [
            broker.publish("news", "one"),
            broker.publish("news", "a\r\nb\rc\nd\u2028e\u0085f\n", event="kind"),
            broker.publish("news", ""),
        ]
        expected = (
            f"data: one\nid: {ids[0]}\n\n"
            f"event: kind\ndata: a\ndata: b\ndata: c\ndata: d\u2028e\u0085f\ndata: \nid: {ids[1]}\n\n"
            f"data: \nid: {ids[2]}\n\n"
        ).encode()
        assert reader.wait_for_end(f"{ids[2]}\n\n".encode()) == opening + expected


def test_heartbeat_is_two_bytes(curl: str, quick_broker: BrokerProcess) -> None:
    with Curl(curl, "-N", f"{quick_broker.url}/topics/news") as reader:
        opening = reader.wait_for_part(b"\n\n")
        reader.wait_for_part(b":\n:\n:\n:\n")
        event_id = quick_broker.publish("news", "one")
        event = f"data: one\nid: {event_id}\n\n".encode()
        output = reader.wait_for_part(event + b":\n")
    assert re.fullmatch(re.escape(opening) + rb"(:\n){4,}" + re.escape(event) + rb":\n", output), output


def test_envelope_is_one_line_of_json(curl: str, broker: BrokerProcess) -> None:
    with Curl(curl, "-N", f"{broker.url}/topics/news?envelope=json") as reader:
        opening = reader.wait_for_end(b"\n\n")
        event_id = broker.publish("news", "a\nb", event="kind")
        output = reader.wait_for_end(f"id: {event_id}\n\n".encode())
    first, second, *rest = output.removeprefix(opening).split(b"\n")
    assert [second, *rest] == [f"id: {event_id}".encode(), b"", b""]
    value = json.loads(first.removeprefix(b"data: "))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value.pop("time"))
    assert value == {"topic": "news", "id": event_id, "event": "kind", "data": "a\nb"}


def test_stream_goes_on_behind_a_cursor(curl: str, broker: BrokerProcess) -> None:
    ids = [broker.publish("news", data) for data in ("one", "two", "three")]
    for place in (
        ["-H", f"Last-Event-ID: {ids[0]}", f"{broker.url}/topics/news"],
        [f"{broker.url}/topics/news?lastEventId={ids[0]}"],
        [f"{broker.url}/topics/news?since={ids[0]}"],
        [f"{broker.url}/topics/news?last=2"],
    ):
        with Curl(curl, "-N", *place) as reader:
            output = reader.wait_for_end(f"id: {ids[2]}\n\n".encode())
        expected = f":\ndata: two\nid: {ids[1]}\n\ndata: three\nid: {ids[2]}\n\n"
        assert output.split(b"\n", 1)[1] == expected.encode(), place


def test_cursor_that_is_none_is_a_gap_and_all_that_is_kept(curl: str, broker: BrokerProcess) -> None:
    event_id = broker.publish("news", "kept")
    with Curl(curl, "-N", "-H", "Last-Event-ID: <none>", f"{broker.url}/topics/news") as reader:
        output = reader.wait_for_end(f"id: {event_id}\n\n".encode())
    expected = (
        b':\nevent: broker.gap\ndata: {"topic":"news","after":"<none>","reason":"unknown-id"}\n\n'
        b"data: kept\nid: " + event_id.encode() + b"\n\n"
    )
    assert output.split(b"\n", 1)[1] == expected


def _headers(head: bytes) -> dict[str, str]:
    status, *lines = head.decode().rstrip().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def test_head_of_a_stream(curl: str, broker: BrokerProcess) -> None:
    with Curl(curl, "--head", f"{broker.url}/topics/news") as head:
        assert head.wait() == 0
    with Curl(curl, "-N", "--include", "--compressed", f"{broker.url}/topics/news") as reader:
        reader.wait_for_end(b"\n\n")
    for answer in (head.printed, reader.printed.partition(b"\r\n\r\n")[0]):
        headers = _headers(answer)
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["vary"] == "Accept"
        assert not {"content-encoding", "content-length"} & set(headers)
    wait_for(lambda: broker.metric("broker_subscribers") == 0, "no stream left, neither of HEAD nor of GET")


def test_drained_stream_ends_clean(curl: str) -> None:
    with (
        BrokerProcess(retry_min_ms=100, retry_max_ms=200) as broker,
        Curl(curl, "-N", f"{broker.url}/topics/news") as reader,
    ):
        opening = reader.wait_for_end(b"\n\n")
        assert broker.terminate() == 0
        assert reader.wait() == 0
    assert re.fullmatch(rb"retry: 1\d\d\n|retry: 200\n", reader.printed.removeprefix(opening))


def test_refusals(curl: str) -> None:
    with (
        BrokerProcess(max_connections=1) as broker,
        Curl(curl, "-N", f"{broker.url}/topics/news") as reader,
    ):
        reader.wait_for_end(b"\n\n")
        with Curl(curl, "--include", f"{broker.url}/topics/news") as refused:
            assert refused.wait() == 0
        head, _, body = refused.printed.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert re.search(rb"(?i)\r\nretry-after: \d+", head)
        assert json.loads(body)["code"] == "overloaded"
        with Curl(curl, "--include", "-H", "Accept: text/event-stream", f"{broker.url}/topics/news") as told:
            assert told.wait() == 0
        head, _, body = told.printed.partition(b"\r\n\r\n")
        assert _headers(head)["content-type"] == "text/event-stream"
        match = re.fullmatch(rb"retry: (\d+)\n", body)
        assert match
        assert int(match[1]) >= 10_000


def test_piped_lines_are_published_as_they_come(curl: str, broker: BrokerProcess) -> None:
    """`producer | curl -T - …`: each line is out before the next one is in."""
    url = f"{broker.url}/topics/news"
    kind = "Content-Type: application/x-ndjson"
    with (
        Curl(curl, "-N", url) as reader,
        Curl(curl, "-X", "POST", "-H", kind, "-T", "-", url) as publisher,
    ):
        reader.wait_for_end(b"\n\n")
        for number in range(3):
            before = reader.printed
            publisher.write(b'{"data": "number %d"}\n' % number)
            wait_for(lambda known=before: reader.printed != known, "the event", SECONDS)  # type: ignore[misc]
            assert f"data: number {number}\n".encode() in reader.printed
        publisher.end_input()
        assert publisher.wait() == 0
    answer = json.loads(publisher.printed)
    assert (answer["topic"], answer["published"]) == ("news", 3)
    assert reader.printed.endswith(f"id: {answer['last_id']}\n\n".encode())


def test_a_pipe_from_a_source_that_is_reset_can_be_completed(curl: str, broker: BrokerProcess) -> None:
    """To the second curl, a source that is reset between two events looks like one that has ended. `end_data` tells them apart."""
    words = ["The", "answer", "is 42.", "[DONE]"]
    ids = [broker.publish("model", word, **({"end": "true"} if word == "[DONE]" else {})) for word in words]
    source_path = "/topics/model?since=earliest&control=none"
    target = f"{broker.url}/topics/answer?end=true&end_data=%5BDONE%5D"
    quiet = f"{curl} --silent --no-buffer --noproxy '*'"
    headers = "-H 'Content-Type: text/event-stream' -H 'Broker-Producer: pipe' -H 'Broker-Sequence: 1'"

    def pipe(source: str) -> tuple[str, dict[str, object]]:
        """Pipe the source into the topic; the answer's status and value."""
        shell = f"{quiet} '{source}{source_path}' | {quiet} -w '\\n%{{http_code}}' -X POST {headers} -T - '{target}'"
        with ChildProcess(["sh", "-c", shell], stderr=None) as piping:
            piping.wait()
        answer, _, status = piping.output.rpartition("\n")
        return status, json.loads(answer)

    second = f"data: answer\nid: {ids[1]}\n\n".encode()
    with CuttingProxy(broker.port, [Cut(second, len(second), reset=True)]) as source:
        status, cut = pipe(source.url)
        assert (status, cut["code"], cut["published"]) == ("400", "incomplete", 2)
        assert exchange(broker.port, request("GET", "/topics/answer", JSON)).json()["closed"] is False
        status, whole = pipe(source.url)
    assert (status, whole["published"], whole["known"], whole["closed"]) == ("200", 2, 2, True)
    with Curl(curl, f"{broker.url}/topics/answer?since=earliest&control=none") as reader:
        assert reader.wait() == 0
    assert re.findall(r"data: (.*)", reader.output) == words


def test_posts_of_the_tour(curl: str, broker: BrokerProcess) -> None:
    url = f"{broker.url}/topics/news"
    with Curl(curl, "-d", "a form's way", url) as publisher:
        assert publisher.wait() == 0
    assert json.loads(publisher.printed)["topic"] == "news"
    with Curl(curl, "--data-binary", "@-", f"{url}?event=kind") as publisher:
        publisher.write(b"two\nlines\n")
        publisher.end_input()
        assert publisher.wait() == 0
    with Curl(curl, "-H", "Accept: application/json", url) as look:
        assert look.wait() == 0
    assert json.loads(look.printed)["events"] == 2
    with Curl(curl, "-X", "DELETE", "--write-out", "%{http_code}", url) as delete:
        assert delete.wait() == 0
    assert delete.printed == b"204"


def test_reader_that_shuts_down_its_sending_side_is_not_held_against_others(broker: BrokerProcess) -> None:
    """What `nc -N` does, and no curl: half of the connection is closed once the request is sent."""
    with Connection(broker.port) as connection:
        connection.send(request("GET", "/topics/news"))
        connection.half_close()
        received = connection.rest()
    assert received == b"" or received.startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: broker.metric("broker_subscribers") == 0, "the broker to let go of it")
