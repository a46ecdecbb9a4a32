"""What the last event of a whole body looks like (contract §2)."""

from __future__ import annotations

import pytest

from broker import sse
from broker.web.end_mark import EndMark


@pytest.mark.parametrize(
    ("data", "event_type", "mark", "is_in"),
    [
        ("[DONE]", None, EndMark("[DONE]", None), True),
        ("[DONE]", "x", EndMark("[DONE]", None), True),
        ("[DONE] ", None, EndMark("[DONE]", None), False),
        ("a\n[DONE]", None, EndMark("[DONE]", None), False),
        ("", None, EndMark("", None), True),
        ("", "x", EndMark("", None), True),
        ("a\r\nb", None, EndMark("a\nb", None), True),
        ("ä🎈", None, EndMark("ä🎈", None), True),
        ("x", "stop", EndMark(None, "stop"), True),
        ("x", "stopped", EndMark(None, "stop"), False),
        ("x", None, EndMark(None, "stop"), False),
        ("event: stop", None, EndMark(None, "stop"), False),
        ("stop", None, EndMark(None, "stop"), False),
        ("x", "stop", EndMark("[DONE]", "stop"), True),
        ("[DONE]", None, EndMark("[DONE]", "stop"), True),
        ("x", "other", EndMark("[DONE]", "stop"), False),
    ],
)
def test_which_event_is_the_mark(data: str, event_type: str | None, mark: EndMark, is_in: bool) -> None:
    assert mark.is_in(sse.lines(data.encode(), event_type)) is is_in


def test_a_mark_is_named_in_errors() -> None:
    assert str(EndMark("[DONE]", "stop")) == "data '[DONE]' or type 'stop'"
    assert len(str(EndMark("x" * 10_000, None))) < 150
