"""Errors: a copy says the same and has no traceback."""

from __future__ import annotations

from copy import copy

import pytest

from broker.errors import BrokerError, Closed, DenialReason, Forbidden, GapFound, OutOfOrder, Unauthorized

ERRORS = [
    BrokerError("what to do", line=3),
    GapFound("what to do", reason="lost"),
    Unauthorized("what to do", error="invalid_token", reason=DenialReason.EXPIRED, published=2),
    Forbidden("what to do", reason=DenialReason.TOPICS),
    Closed(["a", "b"]),
    OutOfOrder(7),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_says_the_same_and_keeps_no_frames(error: BrokerError) -> None:
    with pytest.raises(type(error)):
        raise error
    copied = copy(error)
    assert type(copied) is type(error)
    assert (copied.args, vars(copied)) == (error.args, vars(error))
    assert error.__traceback__ is not None
    assert copied.__traceback__ is None
