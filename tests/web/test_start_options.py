"""The spellings of a cursor in the query, and which of several counts (contract §3)."""

from __future__ import annotations

import pytest

from tests.support.local_broker import Server

SPELLINGS = (
    "lastEventId",
    "lasteventid",
    "LASTEVENTID",
    "LastEventID",
    "last-event-id",
    "Last-Event-ID",
    "LAST-EVENT-ID",
    "last_event_id",
    "LAST_EVENT_ID",
    "Last_Event_Id",
    "last_event-id",
    "lastEvent_Id",
    "%6castEventId",
    "last%2Devent%2Did",
    "last%5fevent%5Fid",
)


async def publish_three(server: Server) -> list[str]:
    return [await server.publish("a", text) for text in ("1", "2", "3")]


@pytest.mark.parametrize("name", SPELLINGS)
async def test_any_usual_spelling_is_a_cursor(server: Server, name: str) -> None:
    ids = await publish_three(server)
    stream = await server.subscribe(f"/topics/a?{name}={ids[1]}")
    assert await stream.data(1) == ["3"]
    assert not stream.gaps()


@pytest.mark.parametrize(
    "name", ["lastEventIds", "event-id", "last.event.id", "last event id", "lastEventId[]"]
)
async def test_other_names_are_none(server: Server, name: str) -> None:
    ids = await publish_three(server)
    stream = await server.subscribe(f"/topics/a?{name.replace(' ', '+')}={ids[0]}")
    assert (await stream.event(1)).type == "broker.open"


async def test_a_cursor_counts_before_since_and_last_in_any_spelling(server: Server) -> None:
    ids = await publish_three(server)
    stream = await server.subscribe(f"/topics/a?since=earliest&last=3&Last_Event_Id={ids[1]}")
    assert await stream.data(1) == ["3"]


async def test_a_header_wins_even_a_malformed_one(server: Server) -> None:
    ids = await publish_three(server)
    stream = await server.subscribe(f"/topics/a?last_event_id={ids[1]}", last_event_id="bad")
    assert await stream.data(3) == ["1", "2", "3"]
    assert stream.gaps() == ["unknown-id"]
    stream = await server.subscribe(f"/topics/a?last_event_id={ids[1]}", last_event_id=ids[0])
    assert await stream.data(2) == ["2", "3"]
    stream = await server.subscribe(f"/topics/a?last_event_id={ids[1]}", last_event_id="")
    assert await stream.data(1) == ["3"]


async def test_of_several_cursors_the_newest_well_formed_one_counts(server: Server) -> None:
    ids = await publish_three(server)
    for query in (
        f"lastEventId={ids[0]}&lastEventId={ids[1]}",
        f"lastEventId={ids[1]}&lastEventId={ids[0]}",
        f"lastEventId={ids[0]}&last_event_id={ids[1]}&LAST-EVENT-ID=zzz",
        f"lastEventId=zzz&last-event-id={ids[1]}&last-event-id=",
        f"lastEventId=9-9&lastEventId={ids[1]}",  # compared as numbers
    ):
        stream = await server.subscribe(f"/topics/a?{query}")
        assert await stream.data(1) == ["3"], query
        assert not stream.gaps()


async def test_the_oldest_id_is_well_formed(server: Server) -> None:
    await publish_three(server)
    stream = await server.subscribe("/topics/a?lastEventId=zzz&last_event_id=0-0")
    assert await stream.data(3) == ["1", "2", "3"]
    assert stream.gaps() == ["lost"], "a cursor from before the store was born"


async def test_only_malformed_cursors_are_a_malformed_one(server: Server) -> None:
    await publish_three(server)
    stream = await server.subscribe("/topics/a?lastEventId=&lastEventId=zzz&last_event_id=1-x&since=latest")
    assert await stream.data(3) == ["1", "2", "3"]
    assert stream.gaps() == ["unknown-id"]


async def test_only_empty_cursors_are_none(server: Server) -> None:
    await publish_three(server)
    stream = await server.subscribe("/topics/a?lastEventId=&last_event_id=&last=1")
    assert await stream.data(1) == ["3"]
