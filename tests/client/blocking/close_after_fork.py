"""A process that forks a child while a subscription is open, and then closes it: the child's copy must not keep it open."""

from __future__ import annotations

import os
import sys

from broker.client import BlockingClient
from tests.client.blocking.forking import forked, result_of
from tests.support.waiting import wait_for


def main(url: str) -> None:
    with BlockingClient(url) as client:
        events = client.subscribe("a")
        events.connect()
        reading, writing = os.pipe()

        def child() -> None:
            os.close(writing)
            os.read(reading, 1)

        pid = forked(child)
        events.close()
        wait_for(lambda: not any(state.subscribers for state in client.topics()), "no subscriber is left")
        os.close(writing)
        os.close(reading)
        assert result_of(pid) == 0


if __name__ == "__main__":
    main(sys.argv[1])
