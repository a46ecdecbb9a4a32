"""The start of any process: its log and limits, and what a start returns or raises."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from broker.descriptors import raise_limit
from broker.process.log_format import formatter


class StartError(Exception):
    """The operator's or the machine's fault: the broker can't start. The text is one line."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A started broker.

    Attributes:
        urls: where it listens; `unix:PATH` for a unix socket.
        store: the store's name, for the start line.
    """

    urls: Sequence[str]
    store: str


def set_up_process(log_level: str, log_format: str = "text", *, log_pid: bool = False) -> None:
    """Log to standard error, and raise the limit of file descriptors as far as allowed.

    Args:
        log_format: "text", or "json" for one JSON object per line.
        log_pid: add the process id to lines of text, to distinguish workers.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(log_format, log_pid=log_pid))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    raise_limit()
