"""The codes of `broker doctor`: the guide, the remedies and the checks have the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.doctor.checks import CHECKS
from broker.doctor.hops import GO, PROXIES
from broker.doctor.remedies import ANY, BROKER, REMEDIES, remedies_for

GUIDE = Path(__file__).parents[2] / "deploy" / "guides" / "doctor.md"


def test_the_guide_has_every_code_in_the_order_of_a_report() -> None:
    codes = re.findall(r"^\| `([\w-]+)` \|", GUIDE.read_text(), re.MULTILINE)
    assert codes == [*CHECKS, "topics"]


@pytest.mark.parametrize("code", CHECKS)
def test_every_check_has_remedies(code: str) -> None:
    table = REMEDIES[code]
    assert set(table) - {ANY, BROKER} in (set(PROXIES), set())
    assert ANY in table or set(PROXIES) <= set(table)
    assert all(text.endswith(".") for text in table.values())


def test_there_are_no_other_remedies() -> None:
    assert list(REMEDIES) == list(CHECKS)


@pytest.mark.parametrize("code", CHECKS)
def test_a_known_hop_gets_its_own_remedy(code: str) -> None:
    shown = remedies_for(code, "nginx")
    assert ANY in shown or "nginx" in shown
    assert "Caddy" not in shown


def test_a_proxy_written_in_go_is_traefik_or_a_caddy_that_hides() -> None:
    assert remedies_for("body-duration", GO).keys() == {"Traefik", "Caddy"}
    assert remedies_for("idle-timeout", GO).keys() == {"Traefik", "Caddy", BROKER}


@pytest.mark.parametrize("hop", [None, "Varnish"])
def test_otherwise_all_are_shown(hop: str | None) -> None:
    assert remedies_for("buffering", hop) == REMEDIES["buffering"]
