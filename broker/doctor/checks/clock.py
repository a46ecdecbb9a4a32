"""Whether the clocks agree: of the ids (the store's), of the header `Date` (the hop that writes it), and of this machine."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from broker.doctor.finding import Verdict, info, ok, warning
from broker.doctor.site import POSTS, RequestFailed, Site
from broker.events import id_seconds, parse_id

TOLERANCE_SECONDS = 2.0
"""`Date` has whole seconds."""


async def check(site: Site) -> Verdict:
    reply = await site.publish(site.topic(POSTS))
    event_id = parse_id(str(reply.json().get("id", "")))
    if event_id is None:
        raise RequestFailed(f"a publish was answered with {reply.status}")
    here = (reply.sent_at + reply.received_at) / 2
    tolerance = TOLERANCE_SECONDS + reply.received_at - reply.sent_at
    ids = id_seconds(event_id) - here
    date = _date_seconds(reply.headers.get("Date", ""))
    ids_agree = abs(ids) <= tolerance
    if date is None:
        if ids_agree:
            return ok(f"The ids' time is {_offset(ids)} this machine's.")
        return info(
            f"The ids' time is {_offset(ids)} this machine's. Without a Date the doctor can't know which one is wrong."
        )
    dates = date - here
    if abs(ids - dates) <= tolerance:
        if ids_agree:
            return ok("The ids' time, the answers' Date and this machine's clock agree.")
        return info(
            f"The ids' time and the answers' Date agree, but are {_offset(ids)} this machine's clock. Check it."
        )
    if ids_agree:
        return warning(
            f"The answers' Date is {_offset(dates)} the ids' time: the clock of the proxy that writes Date is wrong.",
            site.hop,
        )
    return warning(
        f"The ids' time is {_offset(ids - dates)} the answers' Date: the clock of the broker or of its store is wrong, or it "
        "was ahead once, after which ids stay ahead. `since` with an age and the expiry of tokens follow it."
    )


def _date_seconds(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() + 0.5
    except (ValueError, OverflowError):
        return None


def _offset(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'}"
