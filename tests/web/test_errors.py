"""Errors as answers."""

from __future__ import annotations

import pytest

from tests.support.local_broker import Server


@pytest.mark.parametrize("target", ["/nowhere", "/topics/a/b", "/topics/", "/topics/a%2Fb/c"])
async def test_no_such_route(server: Server, target: str) -> None:
    answer = await server.request("GET", target)
    assert (answer.status, answer.json()["code"]) == (404, "not-found")
    assert answer.headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [("PUT", "/topics/a", "DELETE, GET, HEAD, POST"), ("POST", "/healthz", "GET, HEAD")],
)
async def test_no_such_method(server: Server, method: str, target: str, allowed: str) -> None:
    answer = await server.request(method, target, b"x")
    assert (answer.status, answer.json()["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == allowed
    assert answer.headers["connection"] == "close"


async def test_problem_has_its_members(server: Server) -> None:
    answer = await server.request("POST", "/topics/a..b", b"x")
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"title", "status", "detail", "code"}
