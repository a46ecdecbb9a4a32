"""What a supervisor and its workers say to each other: a line of JSON each way.

Rules: bytes and values only. The settings go through a pipe, not through arguments or environment, for these show passwords
to others on the machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from broker.settings import Settings


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is to do: `settings` for an instance, and the descriptors of the `sockets` that it listens on."""

    settings: Settings
    sockets: Sequence[int]

    def encode(self) -> bytes:
        said = {"settings": self.settings.model_dump(mode="json"), "sockets": list(self.sockets)}
        return json.dumps(said).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Orders:
        said = json.loads(line)
        return cls(Settings(**said["settings"]), said["sockets"])


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a worker's start: where it listens and how its store is called, or else what is wrong."""

    url: str = ""
    store: str = ""
    error: str = ""

    def encode(self) -> bytes:
        return json.dumps({"url": self.url, "store": self.store, "error": self.error}).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Report:
        return cls(**json.loads(line))
