"""A process that forks within a stream: the child can't use it, and leaving the block there ends nothing."""

from __future__ import annotations

import sys

from broker.client import BlockingClient
from tests.client.blocking.forking import forked, result_of


def main(url: str) -> None:
    with BlockingClient(url) as client, client.stream("a") as stream:
        stream.send("1")

        def child() -> None:
            with stream_of_parent:
                try:
                    stream.send("from the child")
                except RuntimeError:
                    raise SystemExit(0) from None
                raise AssertionError("it sends")

        stream_of_parent = _Leaving(stream)
        assert result_of(forked(child)) == 0
        stream.send("2")


class _Leaving:
    """Leaves the block of the parent's stream in the child, as an exception in it would."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> bool:
        self._stream.__exit__(*error)  # type: ignore[attr-defined]
        return error[0] is SystemExit


if __name__ == "__main__":
    main(sys.argv[1])
