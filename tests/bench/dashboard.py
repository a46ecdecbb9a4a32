"""What the dashboard costs the broker: `python -m tests.bench.dashboard [--streams N] [--topics N] [--rate N]`.

A broker has N silent streams and topics, and gets events. Its CPU time is measured without a viewer of the dashboard and with
one, in turns. The viewer does what the page does: it follows `_stats`, and asks for the busiest topics every three seconds. The
longest lag of the event loop shows whether the ranking stalls it.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from broker.bench import proc
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.http import exchange, request
from tests.support.silent_streams import make_topics, silent_streams

REFRESH_SECONDS = 3.0


@contextmanager
def in_background(work: threading.Thread, stop: threading.Event) -> Iterator[None]:
    """Run `work` until the context ends, which sets `stop`."""
    work.start()
    try:
        yield
    finally:
        stop.set()
        work.join()


def view(port: int, stop: threading.Event) -> None:
    """What the page asks for."""
    with Stream(port, "/topics/_stats?since=45s&envelope=json", seconds=REFRESH_SECONDS) as stream:
        while not stop.is_set():
            answer = exchange(port, request("GET", "/admin/topics?sort=subscribers&limit=25"))
            assert answer.status == 200, answer
            until = time.monotonic() + REFRESH_SECONDS
            while not stop.is_set() and time.monotonic() < until:
                with suppress(TimeoutError):
                    stream.read()


def publish(broker: BrokerProcess, names: list[str], rate: float, stop: threading.Event) -> None:
    """Publish to topics at random."""
    while not stop.is_set():
        broker.publish(random.choice(names), "x" * 200)
        time.sleep(1 / rate)


def measured(broker: BrokerProcess, seconds: float) -> tuple[float, float]:
    """The broker's CPU time as a share of a core, and the longest lag of its loop in ms."""
    before, began_at, worst = proc.sample(broker.pid).cpu_ns, time.monotonic(), 0.0
    while time.monotonic() - began_at < seconds:
        time.sleep(1)
        worst = max(worst, broker.metric("broker_loop_lag_max_seconds"))
    used = (proc.sample(broker.pid).cpu_ns - before) / 1e9
    return used / (time.monotonic() - began_at), worst * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--topics", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=50, help="events a second")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    names = [f"topic.{number}" for number in range(wanted.topics)]
    streams = [names[int(random.expovariate(1 / 2000)) % len(names)] for _ in range(wanted.streams)]
    with BrokerProcess(max_topics=2 * wanted.topics) as broker:
        make_topics(broker, names)
        stop = threading.Event()
        publishing = threading.Thread(target=publish, args=(broker, names, wanted.rate, stop))
        with silent_streams(broker, streams), in_background(publishing, stop):
            for _ in range(wanted.rounds):
                without, lag_without = measured(broker, wanted.seconds)
                stop_viewing = threading.Event()
                viewing = threading.Thread(target=view, args=(broker.port, stop_viewing))
                with in_background(viewing, stop_viewing):
                    time.sleep(REFRESH_SECONDS)
                    share, lag = measured(broker, wanted.seconds)
                print(
                    f"without a viewer {without:.2%} of a core (loop lag at most {lag_without:.1f} ms), "
                    f"with one {share:.2%} ({lag:.1f} ms): {share - without:+.2%}"
                )
                time.sleep(20)  # so that the broker has stopped to publish and to count


if __name__ == "__main__":
    main()
