"""Topics, and the tokens that open them."""

from __future__ import annotations

import time

import jwt
from django.conf import settings

TOKEN_SECONDS = 600


def topic_of(user_id: object) -> str:
    """The topic of a user's notifications."""
    return f"users.{user_id}.bell"


def make_token(subject: str, **rights: list[str]) -> str:
    """A token for the broker; `rights` are lists of topics."""
    now = time.time()
    claims = {"sub": subject, "iat": now, "exp": now + TOKEN_SECONDS, "broker": rights}
    return jwt.encode(claims, settings.BROKER_SECRET)
