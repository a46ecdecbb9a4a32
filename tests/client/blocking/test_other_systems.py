"""The blocking side where the system lacks what only Unix has. No test here runs on Windows itself."""

from __future__ import annotations

from tests.client.blocking.programs import run_program
from tests.support.broker_process import BrokerProcess


def test_it_needs_nothing_that_only_unix_has(broker: BrokerProcess) -> None:
    run_program("like_windows", broker.url)
