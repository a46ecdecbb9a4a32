"""The environment variables that begin with `BROKER_`.

Kubernetes sets variables in every pod for each Service of its namespace ("service links"). Those of a Service named `broker`
begin with `BROKER_` too, and one has the name of a setting: `BROKER_PORT=tcp://10.96.0.17:8080`. Docker's links do the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

PREFIX = "BROKER_"
CLIENT_NAMES = ("url", "token")
"""What the other commands read, besides settings."""
SIMILARITY = 0.7
"""How alike a misspelt name and a setting are at least, from 0 to 1."""

_LINK = re.compile(r"(tcp|udp|sctp)://")
_LINK_NAME = re.compile(r"_service_(host|port(_\w+)?)$|_port_\d+_(tcp|udp|sctp)(_\w+)?$")


def is_service_link(value: str) -> bool:
    """Whether Kubernetes or Docker wrote `value` for a service. No setting looks like that."""
    return _LINK.match(value) is not None


class Environment(EnvSettingsSource):
    """The settings in the environment, without service links."""

    def __call__(self) -> dict[str, Any]:
        if not any(name.startswith(PREFIX.lower()) for name in self.env_vars):
            return {}  # at once: to look for each setting takes milliseconds
        return super().__call__()

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if isinstance(value, str) and is_service_link(value):
            value = None
        return value, key, is_complex


def environment_warnings(environment: Mapping[str, str], settings: Collection[str]) -> Iterator[str]:
    """A line for each variable that looks like one of `settings` but sets nothing."""
    known = [*settings, *CLIENT_NAMES]
    for variable, value in sorted(environment.items()):
        name = variable.lower().removeprefix(PREFIX.lower())
        if name == variable.lower():
            continue
        if is_service_link(value):
            if name in settings:
                yield (
                    f"{variable}={value} is ignored: Kubernetes sets it for a Service of that name. "
                    f"Rename the Service, or set enableServiceLinks: false; --{name.replace('_', '-')} works in any case"
                )
        elif name not in known and not _LINK_NAME.search(variable.lower()):
            for similar in get_close_matches(name, known, n=1, cutoff=SIMILARITY):
                yield f"{variable} is not a setting and is ignored; did you mean {PREFIX}{similar.upper()}?"
