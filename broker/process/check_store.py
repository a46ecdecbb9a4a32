"""Whether the settings name a store that there is, before anything is started.

Rules: imports of a store no more than its own understanding of the settings takes.
"""

from __future__ import annotations

from broker.settings import BadSetting, Settings


def check_store(settings: Settings) -> None:
    """Raises `BadSetting`, without a password in its text, where `redis_url` is none that the store understands."""
    if settings.redis_url is None:
        return
    from broker.stores.redis import address

    try:
        address.parse(settings.redis_url)
    except ValueError as error:
        raise BadSetting("redis_url", str(error)) from None
