"""Tokens (JWT, RFC 7519): what a text grants, once its signature and its claims are found good.

Rules: no I/O and no clock: keys and time come from outside. A token's rights are in its claim `broker`:

    {"publish": [patterns], "subscribe": [patterns], "admin": true}

A token that was verified is remembered for a while, by its digest: to verify one costs up to 100 µs, and whoever
publishes sends the same one each time. Its times are looked at each time all the same.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jwt

from broker.auth.grants import Grant
from broker.auth.keys import Key
from broker.errors import InvalidTopic, Unauthorized
from broker.topics import check_pattern

MAX_TOKEN_BYTES = 8192
EARLY_SECONDS = 5.0
"""By how much the clock of whoever mints tokens may be ahead: `nbf` is taken that much sooner."""
MOST_REMEMBERED = 4096
MOST_REMEMBERED_BYTES = 8 << 20
MAX_PATTERNS = 1000
MAX_NAME = 1000
"""Characters of `sub` and `jti`: by a longer one nobody could be disconnected or revoked."""

_OPTIONS: Any = {
    "verify_signature": True,
    "verify_exp": False,  # by the time that is given, below
    "verify_nbf": False,
    "verify_iat": False,  # a clock that is ahead is no forgery (RFC 7519 §4.1.6 asks for no check)
}


_UNSIGNED = "No key that is known here has signed this token."


class UnknownKey(Unauthorized):
    """The caller's, unless the keys here are old: the token names one that isn't known."""


@dataclass(frozen=True, slots=True)
class _Verified:
    grant: Grant
    not_before: float | None
    size: int


class Verifier:
    """Verifies tokens.

    Args:
        keys: those that are here to stay; any of them may have signed.
        audience: what `aud` has to name; None refuses tokens that name one (RFC 7519 §4.1.3).
        issuer: what `iss` has to be; None takes any.
    """

    def __init__(
        self, keys: Iterable[Key], *, audience: str | None = None, issuer: str | None = None
    ) -> None:
        self._own = tuple(keys)
        self._fetched: Sequence[Key] = ()
        self._audience = audience
        self._issuer = issuer
        self._remembered: OrderedDict[bytes, _Verified] = OrderedDict()
        self._remembered_bytes = 0

    def take(self, fetched: Sequence[Key]) -> None:
        """Replace the keys that were fetched; whoever was let in by one that is gone is asked again."""
        self._fetched = tuple(fetched)
        self._remembered.clear()
        self._remembered_bytes = 0

    def verify(self, token: str, now: float) -> Grant:
        """What `token` grants at `now`, seconds since 1970.

        Raises:
            UnknownKey: it names a key that isn't here.
            Unauthorized: it is malformed, forged, not yet good or no longer, or for somebody else.
        """
        if len(token) > MAX_TOKEN_BYTES:
            _refuse(f"The token is over {MAX_TOKEN_BYTES} characters.")
        digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32).digest()
        verified = self._remembered.get(digest)
        if verified is None:
            verified = self._verified(token)
            self._remember(digest, verified)
        if verified.not_before is not None and verified.not_before > now + EARLY_SECONDS:
            _refuse("The token isn't good yet.")
        if verified.grant.until is not None and verified.grant.until <= now:
            _refuse("The token has expired; get a new one.")
        return verified.grant

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        self._remembered[digest] = verified
        self._remembered_bytes += verified.size
        while len(self._remembered) > MOST_REMEMBERED or self._remembered_bytes > MOST_REMEMBERED_BYTES:
            _, oldest = self._remembered.popitem(last=False)
            self._remembered_bytes -= oldest.size

    def _verified(self, token: str) -> _Verified:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            _refuse("The token is no JWT.")
        if "crit" in header:
            _refuse("The token wants something understood that isn't known here.")
        claims = self._claims(token, header)
        return _Verified(_grant(claims), _time(claims, "nbf"), len(token))

    def _claims(self, token: str, header: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a token that one of the keys has signed. How many are tried is the operator's choice, not the token's."""
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str):
            _refuse("The token's algorithm is no name.")
        keys = (*self._own, *self._fetched)
        for key in keys:
            if algorithm not in key.algorithms or (key_id is not None and key.id not in (None, key_id)):
                continue
            try:
                return self._decoded(token, key, algorithm)
            except jwt.InvalidSignatureError:
                continue
        if key_id is None or all(key.id != key_id for key in keys):
            raise UnknownKey(_UNSIGNED, error="invalid_token")
        raise Unauthorized(_UNSIGNED, error="invalid_token")

    def _decoded(self, token: str, key: Key, algorithm: str) -> dict[str, Any]:
        """Raises `jwt.InvalidSignatureError`, besides."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.material,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options=_OPTIONS,
            )
        except jwt.InvalidSignatureError:
            raise
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            _refuse("The token is for another audience, or of another issuer.")
        except jwt.MissingRequiredClaimError as error:
            _refuse(f"The token has no claim {error.claim!r}.")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            _refuse("The token's claims are malformed.")
        return claims


def _refuse(detail: str) -> NoReturn:
    raise Unauthorized(detail, error="invalid_token")


def _grant(claims: Mapping[str, Any]) -> Grant:
    rights = claims.get("broker", {})
    if not isinstance(rights, dict) or not isinstance(rights.get("admin", False), bool):
        _refuse("The token's claim 'broker' is an object; its 'admin' is true or false.")
    return Grant(
        publish=_patterns(rights, "publish"),
        subscribe=_patterns(rights, "subscribe"),
        admin=rights.get("admin", False),
        subject=_text(claims, "sub"),
        token_id=_text(claims, "jti"),
        issued_at=_time(claims, "iat"),
        until=_time(claims, "exp"),
    )


def _patterns(rights: Mapping[str, Any], name: str) -> tuple[str, ...]:
    patterns = rights.get(name, [])
    if not isinstance(patterns, list) or len(patterns) > MAX_PATTERNS:
        _refuse(f"The token's 'broker.{name}' is a list of patterns.")
    try:
        return tuple(check_pattern(pattern) for pattern in patterns)
    except (InvalidTopic, TypeError):
        _refuse(f"The token's 'broker.{name}' has a pattern that is none.")


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not _is_utf8(value):
        _refuse(f"The token's {name!r} is no text of 1 to {MAX_NAME} characters.")
    return value


def _is_utf8(text: str) -> bool:
    """Whether it can leave this process: JSON may escape half of a character (RFC 8259 §8.2)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer that no float holds
        pass
    _refuse(f"The token's {name!r} is no time.")
