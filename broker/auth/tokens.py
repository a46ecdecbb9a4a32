"""Tokens (JWT, RFC 7519): verified, and turned into grants.

Rules: no I/O and no clock; the caller passes keys and time. A token's rights are in its claim `broker`:

    {"publish": [patterns], "subscribe": [patterns], "admin": true}

Verified tokens are cached by digest: verification takes up to 100 µs, and publishers send the same token with every request.
`exp` and `nbf` are checked each time.

The first `Verifier` imports PyJWT, and with it `cryptography`: a broker without keys needs neither.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from broker.auth.grants import Grant
from broker.auth.keys import Signature, VerificationKey
from broker.errors import DenialReason, InvalidTopic, Unauthorized
from broker.topics import check_pattern

MAX_TOKEN_CHARS = 8192
NOT_BEFORE_LEEWAY_SECONDS = 5.0
"""The issuer's clock may be ahead by this much."""
MAX_CACHED_TOKENS = 4096
MAX_CACHED_CHARS = 8 << 20
MAX_PATTERNS = 1000
MAX_CLAIM_CHARS = 1000
"""For `sub` and `jti`, so that they fit in requests to disconnect or revoke."""

_OPTIONS: Any = {
    "verify_signature": True,
    "verify_exp": False,  # checked in `verify`, by the time passed there
    "verify_nbf": False,
    "verify_sub": False,  # checked in `_text`, which takes numbers too
    "verify_jti": False,
    "verify_iat": False,  # RFC 7519 §4.1.6 requires no check, and an issuer's clock may be ahead
}
_NO_KEY_FITS = "No key of this broker verifies the token's signature."


class UnknownKey(Unauthorized):
    """The caller's fault, unless the broker's keys are out of date: no key fits the token."""


class BadClaims(Unauthorized):
    """The issuer's fault: the signature is good, but a claim is not. The text names the claim, and quotes nothing of the token."""


@dataclass(frozen=True, slots=True)
class _VerifiedToken:
    grant: Grant
    not_before: float | None
    size: int


class Verifier:
    """Verifies tokens.

    Args:
        keys: the configured keys. A token may be signed with any of them.
        audience: what `aud` must contain. None refuses tokens that have an `aud` (RFC 7519 §4.1.3).
        issuer: what `iss` must be. None accepts any.
    """

    def __init__(
        self, keys: Iterable[VerificationKey], *, audience: str | None = None, issuer: str | None = None
    ) -> None:
        import jwt  # noqa: F401 - now, not while the first token waits

        self._configured_keys = tuple(keys)
        self._keys = self._configured_keys
        self._audience = audience
        self._issuer = issuer
        self._cache: OrderedDict[bytes, _VerifiedToken] = OrderedDict()
        self._cached_chars = 0

    def set_fetched_keys(self, keys: Sequence[VerificationKey]) -> None:
        """Replace the fetched keys. Every token is verified anew, so tokens of a removed key are refused."""
        self._keys = (*self._configured_keys, *keys)
        self._cache.clear()
        self._cached_chars = 0

    def trusts(self, grant: Grant) -> bool:
        """Whether the key that verified the token behind `grant` is still there. True without a token."""
        signature = grant.signature
        return signature is None or any(map(signature.is_verified_by, self._keys))

    def verify(self, token: str, now: float) -> Grant:
        """What `token` grants at `now`, in seconds since 1970.

        Raises:
            UnknownKey: no key fits the token; fetching the keys again may help.
            BadClaims: a claim is malformed, or names another audience or issuer.
            Unauthorized: it is malformed, forged, expired or not valid yet.
        """
        if len(token) > MAX_TOKEN_CHARS:
            _refuse(f"The token is longer than {MAX_TOKEN_CHARS} characters.")
        digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=32).digest()
        verified = self._cache.get(digest)
        if verified is None:
            verified = self._verified(token)
            self._add_to_cache(digest, verified)
        if verified.not_before is not None and verified.not_before > now + NOT_BEFORE_LEEWAY_SECONDS:
            _refuse("The token is not valid yet.", DenialReason.NOT_YET_VALID)
        if verified.grant.expires_at is not None and verified.grant.expires_at <= now:
            _refuse("The token has expired; get a new one.", DenialReason.EXPIRED)
        return verified.grant

    def _add_to_cache(self, digest: bytes, verified: _VerifiedToken) -> None:
        self._cache[digest] = verified
        self._cached_chars += verified.size
        while len(self._cache) > MAX_CACHED_TOKENS or self._cached_chars > MAX_CACHED_CHARS:
            _, oldest = self._cache.popitem(last=False)
            self._cached_chars -= oldest.size

    def _verified(self, token: str) -> _VerifiedToken:
        import jwt

        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            _refuse("The token is not a JWT.")
        if "crit" in header:
            _refuse("The token's 'crit' header names extensions that the broker doesn't support.")
        claims, signature = self._claims(token, header)
        return _VerifiedToken(read_claims(claims, signature), _time(claims, "nbf"), len(token))

    def _claims(self, token: str, header: Mapping[str, Any]) -> tuple[dict[str, Any], Signature]:
        """The claims of a token with a valid signature, and what verified it."""
        import jwt

        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str):
            _refuse("The token's 'alg' is not a string.")
        keys = self._keys
        for key in keys:
            if not key.fits(algorithm, key_id):
                continue
            try:
                return self._decoded(token, key, algorithm), Signature(key, algorithm, key_id)
            except jwt.InvalidSignatureError:
                continue
        if key_id is None or all(key.id != key_id for key in keys):
            raise UnknownKey(_NO_KEY_FITS, error="invalid_token", reason=DenialReason.SIGNATURE)
        raise Unauthorized(_NO_KEY_FITS, error="invalid_token", reason=DenialReason.SIGNATURE)

    def _decoded(self, token: str, key: VerificationKey, algorithm: str) -> dict[str, Any]:
        """The claims. Raises `jwt.InvalidSignatureError` or, for bad claims, `Unauthorized`."""
        import jwt

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
        except jwt.InvalidAudienceError:
            if self._audience is None:
                _refuse_claims("The token has an 'aud', and this broker no jwt_audience to compare it with.")
            _refuse_claims("The token's 'aud' does not contain this broker's jwt_audience.")
        except jwt.InvalidIssuerError:
            _refuse_claims("The token's 'iss' is not this broker's jwt_issuer.")
        except jwt.MissingRequiredClaimError as error:
            _refuse_claims(f"The token lacks the claim {error.claim!r}.")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            _refuse("The token's claims are malformed.")
        return claims


def _refuse(detail: str, reason: DenialReason = DenialReason.MALFORMED) -> NoReturn:
    raise Unauthorized(detail, error="invalid_token", reason=reason)


def _refuse_claims(detail: str) -> NoReturn:
    raise BadClaims(detail, error="invalid_token", reason=DenialReason.CLAIMS)


def read_claims(claims: Mapping[str, Any], signature: Signature | None = None) -> Grant:
    """What the claims of a verified token grant. Raises `BadClaims`."""
    rights = claims.get("broker", {})
    if not isinstance(rights, dict) or not isinstance(rights.get("admin", False), bool):
        _refuse_claims("The token's claim 'broker' must be an object, and 'admin' in it true or false.")
    return Grant(
        publish=_patterns(rights, "publish"),
        subscribe=_patterns(rights, "subscribe"),
        admin=rights.get("admin", False),
        subject=_text(claims, "sub"),
        token_id=_text(claims, "jti"),
        issued_at=_time(claims, "iat"),
        expires_at=_time(claims, "exp"),
        signature=signature,
    )


def _patterns(rights: Mapping[str, Any], name: str) -> tuple[str, ...]:
    patterns = rights.get(name, [])
    if not isinstance(patterns, list) or len(patterns) > MAX_PATTERNS:
        _refuse_claims(f"The token's 'broker.{name}' must be a list of at most {MAX_PATTERNS} patterns.")
    try:
        return tuple(check_pattern(pattern) for pattern in patterns)
    except (InvalidTopic, TypeError):
        _refuse_claims(f"The token's 'broker.{name}' contains an invalid pattern.")


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    """A claim that RFC 7519 wants to be a string. Many issuers use the number of a user."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CLAIM_CHARS or not _is_utf8(value):
        _refuse_claims(
            f"The token's {name!r} must be a string of 1 to {MAX_CLAIM_CHARS} characters or an integer."
        )
    return value


def _is_utf8(text: str) -> bool:
    """False for a lone surrogate, which JSON can express (RFC 8259 §8.2) but UTF-8 cannot."""
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
    except OverflowError:  # an integer too large for a float
        pass
    _refuse_claims(f"The token's {name!r} must be a number of seconds since 1970.")
