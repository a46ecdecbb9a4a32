"""A server that forks its workers, as gunicorn does: the client is made, and used, before the fork."""

from __future__ import annotations

import sys
import threading

from broker.client import BlockingClient, publish
from tests.client.blocking.forking import forked, result_of

WORKERS = 4
EVENTS = 50


def main(url: str) -> None:
    client = BlockingClient(url)
    client.publish("a", "parent")
    publish(url, "a", "parent")
    stop = threading.Event()
    busy = threading.Thread(target=keep_busy, args=(client, stop))
    busy.start()  # so that a request is under way at the moment of each fork
    workers = [forked(lambda number=number: work(client, url, number)) for number in range(WORKERS)]  # type: ignore[misc]
    assert [result_of(worker) for worker in workers] == [0] * WORKERS
    stop.set()
    busy.join()
    client.close()


def keep_busy(client: BlockingClient, stop: threading.Event) -> None:
    while not stop.is_set():
        (event,) = client.history("a", last=1).events
        assert event.data == "parent"


def work(client: BlockingClient, url: str, worker: int) -> None:
    topic = f"workers.{worker}"
    for number in range(EVENTS):
        by_function = number % 2
        event_id = publish(url, topic, str(number)) if by_function else client.publish(topic, str(number))
        (event,) = client.history(topic, last=1).events
        assert (event.id, event.data) == (event_id, str(number)), "an answer to another process's request"
    client.close()


if __name__ == "__main__":
    main(sys.argv[1])
