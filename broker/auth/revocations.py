"""Revocations: tokens that are refused before they expire.

Rules: values only; the caller passes the time. A revocation names one token by its id, or all tokens that a subject was issued
up to a moment; later ones are valid. It is kept until the time given with it, when every token that it covers has expired.

A token from the future may have been issued before the revocation, by a clock that is ahead. So while its subject is revoked,
it is refused, also when its time has come. Nothing tells it from a new token if this instance first sees it then.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.auth.grants import Grant
from broker.errors import DenialReason, RateLimited, Unauthorized

MAX_REVOCATIONS = 100_000
MAX_NAME_BYTES = 16 << 20
"""Of the names in all revocations."""
MAX_EARLY_TOKENS = 16
"""How many tokens from the future are remembered of one subject, by their times."""
CLOCK_LEEWAY_SECONDS = 60.0
"""The issuer's clock may be ahead by this much."""
LEAP_SECONDS = 3600.0
"""A clock that goes on by more between two sweeps may be wrong. For as long, nothing is forgotten."""
SWEEP_BATCH = 1000
"""How many one `sweep` looks at."""
RETRY_AFTER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class _Revocation:
    """Covers tokens issued up to `revoked_at`; kept until `expires_at`. Both in seconds since 1970."""

    revoked_at: float
    expires_at: float


class Revocations:
    """The revocations that this instance knows.

    Attributes:
        bytes: of their names, at most.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._tokens: dict[str, _Revocation] = {}
        self._subjects: dict[str, _Revocation] = {}
        self._swept_at: float | None = None
        self._forgets_from = 0.0
        self._early: dict[str, set[float]] = {}  # by subject: when its tokens from the future were issued

    def __len__(self) -> int:
        return len(self._tokens) + len(self._subjects)

    def check_room(self, name: str) -> None:
        """Raises `RateLimited` if there are `MAX_REVOCATIONS` already, or if `name` is too long for the rest of `MAX_NAME_BYTES`."""
        if len(self) >= MAX_REVOCATIONS:
            raise _too_many(f"{MAX_REVOCATIONS} revocations")
        if self.bytes + _size(name) > MAX_NAME_BYTES:
            raise _too_many(f"{MAX_NAME_BYTES} bytes of names in revocations")

    def revoke_token(self, token_id: str, *, at: float, until: float) -> None:
        """Revoke the token with the `jti` `token_id`. The revocation may be forgotten at `until`, in seconds since 1970."""
        self._merge(self._tokens, token_id, _Revocation(at, until))

    def revoke_subject(self, subject: str, *, at: float, until: float) -> None:
        """Revoke the tokens that `subject` was issued up to `at`, and those without `iat`; otherwise like `revoke_token`."""
        self._merge(self._subjects, subject, _Revocation(at, until))

    def _merge(self, revocations: dict[str, _Revocation], name: str, new: _Revocation) -> None:
        """Keep the later of both times: a revocation may arrive twice, or out of order."""
        old = revocations.get(name)
        if old is None:
            self.bytes += _size(name)
            revocations[name] = new
        else:
            revoked_at, expires_at = max(old.revoked_at, new.revoked_at), max(old.expires_at, new.expires_at)
            revocations[name] = _Revocation(revoked_at, expires_at)

    def is_revoked(self, grant: Grant, now: float) -> bool:
        """Whether the token behind `grant` is revoked."""
        if grant.token_id is not None and grant.token_id in self._tokens:
            return True
        revocation = self._subjects.get(grant.subject) if grant.subject is not None else None
        if revocation is None or grant.subject is None:
            return False
        if grant.issued_at is None or grant.issued_at <= revocation.revoked_at:
            return True
        return self._is_early(grant.subject, grant.issued_at, now)

    def _is_early(self, subject: str, issued_at: float, now: float) -> bool:
        early = self._early.get(subject, set())
        if issued_at > now + CLOCK_LEEWAY_SECONDS:
            if len(early) < MAX_EARLY_TOKENS:
                self._early.setdefault(subject, early).add(issued_at)
            return True
        return issued_at in early

    def check(self, grant: Grant, now: float) -> None:
        """Raises `Unauthorized` if the token behind `grant` is revoked."""
        if (self._tokens or self._subjects) and self.is_revoked(grant, now):
            raise Unauthorized(
                "This token was revoked; get a new one.", error="invalid_token", reason=DenialReason.REVOKED
            )

    def sweep(self, now: float) -> None:
        """Forget the expired ones among the next `SWEEP_BATCH` of each kind. Call this periodically."""
        elapsed = 0.0 if self._swept_at is None else now - self._swept_at
        self._swept_at = now
        if abs(elapsed) > LEAP_SECONDS:
            self._forgets_from = now + LEAP_SECONDS if elapsed > 0 else 0.0
        if now < self._forgets_from:
            return
        for revocations in (self._tokens, self._subjects):
            for name in [name for name, _ in zip(revocations, range(SWEEP_BATCH), strict=False)]:
                revocation = revocations.pop(name)
                if revocation.expires_at > now:
                    revocations[name] = revocation  # moves to the end: the next sweep takes others
                    continue
                self.bytes -= _size(name)
                if revocations is self._subjects:
                    self._early.pop(name, None)


def _size(name: str) -> int:
    """How many bytes `name` takes at most."""
    return len(name) if name.isascii() else 4 * len(name)


def _too_many(limit: str) -> RateLimited:
    return RateLimited(
        f"The limit of {limit} is reached. Set 'exp' in each so that it can be forgotten sooner.",
        retry_after=RETRY_AFTER_SECONDS,
    )
