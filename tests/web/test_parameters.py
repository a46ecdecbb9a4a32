"""Unknown query parameters (contract §2): a POST refuses them, other methods ignore them."""

from __future__ import annotations

import pytest

from broker.errors import InvalidParameter
from broker.web.parameters import MAX_NAME_CHARS, OF_PUBLISH, OF_PUBLISH_TO_SEVERAL, check_names
from broker.web.values import Query
from tests.support.local_broker import Server
from tests.web.streamed_body import EVENT_STREAM, NDJSON, StreamedBody, describe, kept

POSTS = {
    "one event": ("/topics/a", b"x", {}),
    "an event stream": ("/topics/a", b"data: x\n\n", {"content_type": EVENT_STREAM}),
    "lines": ("/topics/a", b'{"data": 1}\n', {"content_type": NDJSON}),
    "several topics": ("/topics?topic=a", b"x", {}),
    "lines to several": ("/topics", b'{"topic": "a", "data": 1}\n', {"content_type": NDJSON}),
    "a cancel": ("/topics/a/cancel", b"", {}),
    "a disconnect": ("/admin/disconnect", b'{"topic": "a"}', {}),
    "a revocation": ("/admin/revoke", b'{"sub": "a"}', {}),
}


@pytest.mark.parametrize(("target", "body", "headers"), POSTS.values(), ids=POSTS.keys())
async def test_every_post_refuses_an_unknown_parameter(
    server: Server, target: str, body: bytes, headers: dict[str, str]
) -> None:
    joint = "&" if "?" in target else "?"
    answer = await server.request("POST", f"{target}{joint}acess_token=x", body, **headers)
    problem = answer.json()
    assert (answer.status, problem["code"]) == (400, "invalid-parameter")
    assert (problem["parameter"], problem["nearest"]) == ("acess_token", "access_token")
    assert "'acess_token'" in problem["detail"]
    assert "'access_token'" in problem["detail"]
    assert (await describe(server))["events"] == 0
    answer = await server.request("POST", f"{target}{joint}_=1&_x=2&utm_source=3&utm_=", body, **headers)
    assert 200 <= answer.status < 300, answer


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("retian", "retain"),
        ("Retain", "retain"),
        ("retain_seconds", "retain"),
        ("ends", "end"),
        ("END", "end"),
        ("end-data", "end_data"),
        ("enddata", "end_data"),
        ("end-event", "end_event"),
        ("lastviewer", "last_viewer"),
        ("last-viewer", "last_viewer"),
        ("reasons", "reason"),
        ("evnet", "event"),
    ],
)
def test_the_nearest_known_name(name: str, nearest: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_names(Query(f"event=x&{name}=24h"), OF_PUBLISH)
    assert caught.value.extra == {"parameter": name, "nearest": nearest}


@pytest.mark.parametrize("raw", ["=x", "x", "%F0%9F%98%80=1", "%ff=1", "a%20b=1", "utmx=1", "+=1", "topic=a"])
def test_any_other_name_is_unknown(raw: str) -> None:
    with pytest.raises(InvalidParameter):
        check_names(Query(raw), OF_PUBLISH)


@pytest.mark.parametrize(
    "raw", ["", "&", "&&", "event=x&end=true&retain=1s", "%65vent=x", "_=1&utm_x=2", "topic=a"]
)
def test_known_names_pass_however_they_are_encoded(raw: str) -> None:
    check_names(Query(raw), OF_PUBLISH_TO_SEVERAL)


def test_a_long_name_is_cut() -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_names(Query("r" * 100_000), OF_PUBLISH)
    assert caught.value.extra["parameter"] == "r" * MAX_NAME_CHARS
    assert len(caught.value.detail) < 300


async def test_a_misspelt_option_of_a_streamed_body_is_refused_before_the_body(server: Server) -> None:
    body = await StreamedBody.open(server, "/topics/a?edn=true")
    answer = await body.answer()
    assert (answer.status, answer.json()["nearest"]) == (400, "end")
    assert answer.headers["connection"] == "close"


async def test_other_methods_ignore_unknown_parameters(server: Server) -> None:
    await server.publish("a", "kept")
    stream = await server.subscribe("/topics/a?since=earliest&cacheBuster=1&r=2")
    assert await stream.data(1) == ["kept"]
    for method in ("GET", "HEAD"):
        answer = await server.request(method, "/topics/a?nocache=1", accept="application/json")
        assert answer.status == 200
    assert await kept(server, "a") == [(None, "kept")]
    assert (await server.request("DELETE", "/topics/a?x=1")).status == 204
