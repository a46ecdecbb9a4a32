"""The groups that a chaos run can have, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.stores.chaos.embedded import EmbeddedGroup
from tests.stores.chaos.groups import Group, Stage
from tests.stores.chaos.ordered import OrderedGroup
from tests.stores.chaos.replicated import SentinelGroup

StartGroup = Callable[[Stage], Group]

GROUPS: dict[str, StartGroup] = {
    "shared": Group,
    "sentinel": SentinelGroup,
    "sentinel-wait": partial(SentinelGroup, wait_replicas=True),
    "ordered": OrderedGroup,
    "data": EmbeddedGroup,
}
