"""What lets the client in: a token, or whoever gives a fresh one.

Rules: a token is asked for before each request, and not kept: whoever gives it knows how long it is good. What the giver
raises is raised to whoever publishes or subscribes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Token = str | Callable[[], Awaitable[str]]
"""Itself, or what gives it; None of these where the broker asks for none."""


async def authorization(token: Token | None) -> dict[str, str]:
    """The header by which `token` goes with a request (RFC 6750 §2.1)."""
    if token is None:
        return {}
    text = token if isinstance(token, str) else await token()
    return {"Authorization": f"Bearer {text}"}
