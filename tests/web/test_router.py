"""Finding the route of a path."""

from __future__ import annotations

import pytest

from broker.web.base_path import BasePath
from broker.web.cors import AllowedOrigins
from broker.web.guard import Guard
from broker.web.router import Router
from broker.web.routes import ROUTES, Route
from broker.web.values import Answer
from tests.support.work import bytecodes


@pytest.fixture
def router() -> Router:
    guard = Guard(checks_host=False, allowed_hosts=(), origins=AllowedOrigins(()))
    return Router(ROUTES, guard, BasePath(""))


@pytest.mark.parametrize(
    ("path", "template", "values"),
    [
        ("/topics/a", "/topics/{topic}", {"topic": "a"}),
        ("/topics/%61%2fb", "/topics/{topic}", {"topic": "a/b"}),
        ("/topics/a/events", "/topics/{topic}/events", {"topic": "a"}),
        ("/%74opics/a/events", "/topics/{topic}/events", {"topic": "a"}),
        ("/healthz", "/healthz", {}),
    ],
)
def test_a_path_and_its_route(router: Router, path: str, template: str, values: dict[str, str]) -> None:
    found, found_values = router.find("GET", path)
    assert isinstance(found, Route)
    assert (found.path, found_values) == (template, values)


@pytest.mark.parametrize("path", ["/topics/a/b/c", "/topics//events", "/topics/a/events/", "//topics/a"])
def test_paths_without_a_route(router: Router, path: str) -> None:
    found, _ = router.find("GET", path)
    assert isinstance(found, Answer)
    assert found.status == 404


@pytest.mark.parametrize("segment", ["/%41", "/", "/a"])
def test_i9_the_work_for_a_long_path_is_bounded(router: Router, segment: str) -> None:
    """2,000 segments that had to be decoded took 2 ms."""
    bound = bytecodes(lambda: router.find("GET", segment * 8))
    assert bytecodes(lambda: router.find("GET", segment * 2000)) <= bound * 2
