"""The client's address, which only trusted proxies can set."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.web.client_address import MAX_HOPS, MAX_PAIRS, ClientAddresses
from tests.support.work import bytecodes
from tests.web.requests import plain_request

TRUSTED = [ip_network(text) for text in ("10.0.0.0/8", "127.0.0.1", "fd00::/8")]
CLIENT = "203.0.113.7"


def address(peer: str, *headers: tuple[str, str], trusted: bool = True, believed: str | None = None) -> str:
    request = plain_request("GET", "/", *headers, peer=peer)
    return ClientAddresses(TRUSTED if trusted else [], believed).of(request.headers, request.peer)


def xff(value: str) -> tuple[str, str]:
    return "X-Forwarded-For", value


def forwarded(value: str) -> tuple[str, str]:
    return "Forwarded", value


TOLD = [
    ("198.51.100.1", [], "198.51.100.1"),
    ("198.51.100.1", [xff(CLIENT)], "198.51.100.1"),
    ("198.51.100.1", [forwarded(f"for={CLIENT}")], "198.51.100.1"),
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", [xff(CLIENT)], CLIENT),
    ("10.0.0.1", [xff(f"{CLIENT}:4711")], CLIENT),
    ("10.0.0.1", [xff(f"1.2.3.4, {CLIENT}")], CLIENT),
    ("10.0.0.1", [xff("1.2.3.4"), xff(CLIENT)], CLIENT),
    ("10.0.0.1", [xff(f"1.2.3.4, {CLIENT}, 10.0.0.2, 127.0.0.1")], CLIENT),
    ("10.0.0.1", [xff("10.0.0.3, 10.0.0.2")], "10.0.0.3"),
    ("10.0.0.1", [xff("unknown")], "10.0.0.1"),
    ("10.0.0.1", [xff(f"{CLIENT}, nonsense, 10.0.0.2")], "10.0.0.2"),
    ("10.0.0.1", [xff("")], "10.0.0.1"),
    ("10.0.0.1", [xff("[2001:db8:1:2:3::4]:99")], "2001:db8:1:2::/64"),
    ("10.0.0.1", [xff("2001:db8:1:2:3::4")], "2001:db8:1:2::/64"),
    ("10.0.0.1", [xff("::ffff:203.0.113.7")], CLIENT),
    ("fd00::1", [xff(CLIENT)], CLIENT),
    ("::ffff:10.0.0.1", [xff(CLIENT)], CLIENT),
    ("10.0.0.1", [forwarded(f"for={CLIENT};proto=https")], CLIENT),
    ("10.0.0.1", [forwarded('for="[2001:db8:1:2:3::4]:99"')], "2001:db8:1:2::/64"),
    ("10.0.0.1", [forwarded(f"for=1.2.3.4, for={CLIENT};by=10.0.0.9, for=10.0.0.2")], CLIENT),
    ("10.0.0.1", [forwarded("for=_hidden, for=10.0.0.2")], "10.0.0.2"),
    ("10.0.0.1", [forwarded("proto=https")], "10.0.0.1"),
    ("10.0.0.1", [xff(CLIENT), forwarded(f"for={CLIENT}")], CLIENT),
    ("10.0.0.1", [xff(CLIENT), forwarded("for=1.2.3.4")], "10.0.0.1"),
    ("2001:db8:1:2:3::4", [], "2001:db8:1:2::/64"),
]


@pytest.mark.parametrize(("peer", "headers", "expected"), TOLD, ids=str)
def test_entries_of_trusted_proxies_count(peer: str, headers: list[tuple[str, str]], expected: str) -> None:
    assert address(peer, *headers) == expected


def test_without_trusted_proxies_the_peer_counts() -> None:
    assert address("10.0.0.1", xff(CLIENT), trusted=False) == "10.0.0.1"


def test_a_peer_without_an_address_has_no_key() -> None:
    assert address("") == ""


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(HEADER, HEADER, st.booleans())
def test_entries_of_a_client_change_nothing(forged: str, other: str, has_other: bool) -> None:
    """The proxy adds the client's address on the right of what the client has sent."""
    headers = [xff(f"{forged}, {CLIENT}" if forged else CLIENT)]
    assert address("10.0.0.1", *headers) == CLIENT
    if has_other:
        assert address("10.0.0.1", *headers, forwarded(other), believed="x-forwarded-for") == CLIENT


@given(
    HEADER,
    HEADER,
    st.sampled_from([f"for={CLIENT}", f'For="{CLIENT}:9";proto=https', f"by=10.0.0.9;for={CLIENT}"]),
)
def test_entries_of_a_client_change_nothing_in_forwarded(forged: str, other: str, added: str) -> None:
    headers = [forwarded(f"{forged}, {added}" if forged else added)]
    assert address("10.0.0.1", *headers) == CLIENT
    assert address("10.0.0.1", *headers, xff(other), believed="forwarded") == CLIENT


def test_an_open_quote_of_a_client_hides_no_address() -> None:
    headers = forwarded('for="a, for="[2001:db8:1:2::9]"')
    assert address("10.0.0.1", headers) == "2001:db8:1:2::/64"


@pytest.mark.parametrize(
    ("one", "separator", "most"),
    [
        (xff("10.0.0.2"), ",", MAX_HOPS),
        (forwarded("for=10.0.0.2"), ",", MAX_HOPS),
        (forwarded("by=x"), ";", MAX_PAIRS),
    ],
    ids=["hops", "forwarded hops", "pairs"],
)
def test_i9_long_lists_cost_no_more_than_short_ones(one: tuple[str, str], separator: str, most: int) -> None:
    """1,600 hops took 2 ms, twice where the request was refused."""
    name, text = one
    many, few = ((name, separator.join([text] * count)) for count in (800, most))
    bound = bytecodes(lambda: address("10.0.0.1", few))
    assert bytecodes(lambda: address("10.0.0.1", many)) <= bound


def test_the_nearest_hops_count_of_a_long_list() -> None:
    hops = [CLIENT, *["10.0.0.2"] * (MAX_HOPS - 1)]
    assert address("10.0.0.1", xff(", ".join(hops))) == CLIENT
    assert address("10.0.0.1", xff(", ".join([CLIENT, *hops[1:], "10.0.0.3"]))) == "10.0.0.2"
