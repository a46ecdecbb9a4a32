"""Host names and addresses, as in `Host` and `Origin`.

Rules: text only; names are never looked up.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

DEFAULT_PORTS = {"http": "80", "https": "443"}
LOCAL_SUFFIXES = (".svc", ".cluster.local", ".internal")
"""Names below these exist in clusters and private networks only."""
NAME = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
"""A host name in lower case, as a regular expression. Names of containers may have underscores."""

_SINGLE_LABEL = re.compile(r"[a-z0-9_-]+")
_NAME = re.compile(NAME)


def is_name(text: str) -> bool:
    """Whether `text` has the form of a host name in lower case."""
    return _NAME.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether `host` always means this machine: `localhost`, a name below it, or a loopback address. No port."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_local(name: str) -> bool:
    """Whether `name` can't be rebound: it is an address itself, or a name that the public DNS can't have.

    Takes lower case without a port; an IPv6 address is in brackets.
    """
    name = name.removesuffix(".")
    if _SINGLE_LABEL.fullmatch(name):
        return True
    if is_name(name) and (is_loopback(name) or name.endswith(LOCAL_SUFFIXES)):
        return True
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def split_port(host: str) -> tuple[str, str]:
    """`name:port` as name and port; "" without a port. An IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    is_port = colon and port.isascii() and port.isdigit() and (":" not in name or name.endswith("]"))
    return (name, port) if is_port else (host, "")
