"""What things are called inside the server: keys and channels.

Rules: text only. All keys of one broker carry its prefix and one hash tag, so that what a script touches lies in one slot.
Channels carry the number of the database too: pub/sub knows no databases.
"""

from __future__ import annotations

from dataclasses import dataclass

_TAG = "{b}:"


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one broker's things; `instance` tells this process from the others."""

    prefix: str
    database: int
    instance: str

    def key(self, kind: str, name: str = "") -> str:
        """The key of a kind, or of one of a kind; `key("log", "news")` is `broker:{b}:log:news`."""
        return f"{self.prefix}{_TAG}{kind}:{name}" if name else f"{self.prefix}{_TAG}{kind}"

    def key_prefix(self, kind: str) -> str:
        """What the keys of a kind begin with."""
        return f"{self.prefix}{_TAG}{kind}:"

    def shared_keys(self, *kinds: str) -> list[str]:
        """The keys of kinds of which there is one."""
        return [self.key(kind) for kind in kinds]

    def topic_keys(self, topic: str) -> list[str]:
        """The log and the record of a topic, as scripts take them."""
        return [self.key("log", topic), self.key("rec", topic)]

    def channel(self, topic: str) -> str:
        """Where what is published to a topic is heard."""
        return f"{self.channel_prefix}{topic}"

    @property
    def channel_prefix(self) -> str:
        return f"{self.prefix}{self.database}:"

    @property
    def notice_channel(self) -> str:
        """Where instances tell each other what isn't of a topic; a topic's name has no slash."""
        return self.channel("/notices")

    @property
    def probe_channel(self) -> str:
        """Where this instance hears itself. No topic begins like that that anybody may watch."""
        return self.channel(f"_probe:{self.instance}")
