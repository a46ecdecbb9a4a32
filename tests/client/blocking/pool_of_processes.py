"""A pool of processes that are forked with the kept connections of their parent."""

from __future__ import annotations

import multiprocessing
import sys

from broker.client import publish

WORKERS = 4
EVENTS = 50


def main(url: str) -> None:
    publish(url, "a", "parent")
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        pool.starmap(work, [(url, worker) for worker in range(WORKERS)], chunksize=1)
        pool.close()
        pool.join()


def work(url: str, worker: int) -> None:
    for number in range(EVENTS):
        publish(url, f"workers.{worker}", str(number))


if __name__ == "__main__":
    main(sys.argv[1])
