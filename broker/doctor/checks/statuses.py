"""Whether the broker's error answers arrive as they are: clients act on the status, and read the code."""

from __future__ import annotations

from broker.doctor.finding import Verdict, error, ok, warning
from broker.doctor.site import Reply, Site


async def check(site: Site) -> Verdict:
    topic = site.topic("statuses")
    await site.publish_id(topic, "last", {"end": "true"})
    replies = {
        (400, "invalid-topic"): await site.request("GET", "/topics/bad..name"),
        (400, "invalid-parameter"): await site.publish(topic, "x", {"no_such_parameter": "1"}),
        (409, "closed"): await site.publish(topic),
        (410, "gap"): await site.request(
            "GET", f"/topics/{topic}", {"control": "none", "lastEventId": "unknown"}
        ),
    }
    no_chunks = replies[410, "gap"].code == "invalid-parameter"  # a hop speaks HTTP/1.0: see chunking
    if no_chunks:
        del replies[410, "gap"]
    changed = [_named(asked, reply) for asked, reply in replies.items() if reply.status != asked[0]]
    if changed:
        return error(f"Error answers arrive with another status: {'; '.join(changed)}.", site.hop)
    replaced = [str(status) for (status, code), reply in replies.items() if reply.code != code]
    if replaced:
        return warning(
            f"The broker's explanation is replaced in the answers {', '.join(replaced)}: clients can't read their code.",
            site.hop,
        )
    return ok(
        f"The statuses {', '.join(sorted({str(status) for status, _ in replies}))} arrive with the broker's explanation."
    )


def _named(asked: tuple[int, str], reply: Reply) -> str:
    return f"{asked[0]} {asked[1]} as {reply.status}"
