"""Runs the blocking side and its commands in a Python that lacks what only Unix has, as on Windows."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import select
import socket
import sys
from collections.abc import Sequence
from types import ModuleType

UNIX_MODULES = {"fcntl", "grp", "posix_ipc", "pwd", "resource", "syslog", "termios", "tty", "uvloop"}
UNNEEDED_MODULES = {"aiohttp", "asyncio", "hdrh", "multiprocessing", "pydantic", "redis", "rich", "signal"}
"""Windows has most of these; the blocking side must not need them all the same."""
UNIX_NAMES: Sequence[tuple[ModuleType, Sequence[str]]] = (
    (os, ("fork", "forkpty", "getuid", "register_at_fork", "waitpid")),
    (select, ("epoll", "poll")),
    (socket, ("AF_UNIX", "SO_REUSEPORT", "TCP_USER_TIMEOUT", "socketpair")),
)


class _Refuse(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in UNIX_MODULES | UNNEEDED_MODULES:
            raise ModuleNotFoundError(f"{fullname} is hidden")
        return None


def hide() -> None:
    """Make the names and modules unavailable to whatever is imported from now on."""
    for module, names in UNIX_NAMES:
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    loaded = [name for name in sys.modules if name.partition(".")[0] in UNIX_MODULES | UNNEEDED_MODULES]
    for name in loaded:
        del sys.modules[name]
    sys.meta_path.insert(0, _Refuse())


def main(url: str) -> None:
    hide()
    from broker import cli
    from broker.client import BlockingClient, Cancelled, End, publish

    publish(url, "a", "by the function")
    with BlockingClient(url) as client:
        client.publish("a", "by the client")
        with client.stream("b") as stream:
            for text in ("1", "2"):
                stream.send(text)
        *events, end = client.follow("b", ends=True)
        assert [event.data for event in events] == ["1", "2"]
        assert isinstance(end, End)
        try:
            with client.stream("c") as stream:
                stream.send("x")
                while not client.history("c").events:
                    """Until the stream has reached the broker."""
                client.cancel("c")
                while True:
                    stream.send("x" * 100_000)
        except Cancelled:
            client.delete("c")
        client.end("a", "done")
        assert len(client.history("a").events) == 2
        assert {"a", "b"} <= {state.topic for state in client.topics() if state.closed}
    for words in (
        ["events", "a.b"],
        ["end", "a.b"],
        ["topics"],
        ["delete", "a.b", "--yes"],
    ):
        assert cli.main([*words, "--url", url]) == 0
    assert not {name.partition(".")[0] for name in sys.modules} & (UNIX_MODULES | UNNEEDED_MODULES)


if __name__ == "__main__":
    main(sys.argv[1])
