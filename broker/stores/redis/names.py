"""The names of keys and channels on the server.

Rules: text only. All keys of one broker have its prefix and one hash tag, so that a script's keys lie in one slot of a cluster.
Channels have the database's number too, since pub/sub ignores databases.
"""

from __future__ import annotations

_TAG = "{b}:"


class Names:
    """The names of one broker.

    Args:
        instance: differs between processes.

    Attributes:
        channel_prefix: a topic's channel is this and its name.
        broadcast_channel: for commands to all instances; its slash keeps it from being a topic's.
        probe_channel: where this instance receives its own probes; no topic that may be watched begins like it.
    """

    def __init__(self, prefix: str, database: int, instance: str) -> None:
        self.instance = instance
        self.channel_prefix = f"{prefix}{database}:"
        self.broadcast_channel = self.channel("/notices")
        self.probe_channel = self.channel(f"_probe:{instance}")
        self._key_prefix = prefix + _TAG
        self._log_prefix = self.key_prefix("log")
        self._record_prefix = self.key_prefix("rec")

    def key(self, kind: str, name: str = "") -> str:
        """`key("state")` is `broker:{b}:state`, `key("held", "x")` is `broker:{b}:held:x`."""
        return f"{self._key_prefix}{kind}:{name}" if name else self._key_prefix + kind

    def key_prefix(self, kind: str) -> str:
        """The beginning of the keys of a kind with names."""
        return f"{self._key_prefix}{kind}:"

    def keys(self, *kinds: str) -> list[str]:
        """The keys of kinds without names."""
        return [self._key_prefix + kind for kind in kinds]

    def topic_keys(self, topic: str) -> tuple[str, str]:
        """The keys of a topic's log and record."""
        return self._log_prefix + topic, self._record_prefix + topic

    def channel(self, topic: str) -> str:
        return self.channel_prefix + topic
