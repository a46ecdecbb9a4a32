"""Which tokens were taken back before their time.

Rules: values only; no clock of its own. A token is revoked by its id, or with all that its subject was given up to a
moment: who logs in again afterwards gets a new one. Each is remembered until the last token it concerns has expired, as
far as whoever revoked it knew.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.auth.grants import Grant
from broker.errors import RateLimited, Unauthorized

MOST = 100_000
SWEEP_MOST = 1000
RETRY_AFTER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class _Revoked:
    """`at`: tokens made later are good; `until`: then it may be forgotten. Seconds since 1970."""

    at: float
    until: float


class Revocations:
    """Those that this instance knows of."""

    def __init__(self) -> None:
        self._tokens: dict[str, _Revoked] = {}
        self._subjects: dict[str, _Revoked] = {}

    def __len__(self) -> int:
        return len(self._tokens) + len(self._subjects)

    def check_room(self) -> None:
        """Raises `RateLimited` where no further one is to be asked for."""
        if len(self) >= MOST:
            raise RateLimited(
                f"{MOST} revocations are remembered, and no more; say with 'exp' when each may be forgotten.",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def revoke_token(self, token_id: str, *, at: float, until: float) -> None:
        """The token of this id, whoever has it."""
        _remember(self._tokens, token_id, _Revoked(at, until))

    def revoke_subject(self, subject: str, *, at: float, until: float) -> None:
        """All that `subject` was given up to `at`; a token that doesn't say when it was made is one of them."""
        _remember(self._subjects, subject, _Revoked(at, until))

    def concerns(self, grant: Grant) -> bool:
        """Whether `grant` is of a token that was revoked."""
        if grant.token_id is not None and grant.token_id in self._tokens:
            return True
        revoked = self._subjects.get(grant.subject) if grant.subject is not None else None
        return revoked is not None and (grant.issued_at is None or grant.issued_at <= revoked.at)

    def check(self, grant: Grant) -> None:
        """Raises `Unauthorized` where it was."""
        if (self._tokens or self._subjects) and self.concerns(grant):
            raise Unauthorized("This token was revoked; get a new one.", error="invalid_token")

    def sweep(self, now: float) -> None:
        """One short step of forgetting those whose time is over."""
        for revoked in (self._tokens, self._subjects):
            for name in [name for name, _ in zip(revoked, range(SWEEP_MOST), strict=False)]:
                known = revoked.pop(name)
                if known.until > now:
                    revoked[name] = known  # at the end of the line, so that all have their turn


def _remember(revoked: dict[str, _Revoked], name: str, new: _Revoked) -> None:
    """The later of what is known and what is new, in each respect: notices may come twice, or late."""
    known = revoked.get(name, new)
    revoked[name] = _Revoked(max(known.at, new.at), max(known.until, new.until))
