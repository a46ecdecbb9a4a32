"""Makes the store that the settings choose.

Rules: imports a store's own modules only when the settings choose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from broker.events import Clock
from broker.process.data_directory import SEEN_DIRECTORY
from broker.settings import BadSetting, Settings
from broker.stores.base import Store
from broker.stores.memory import MemoryStore


def check_store(settings: Settings) -> None:
    """Raises `BadSetting` if the store does not understand `redis_url`; the text contains no password."""
    if settings.redis_url is None:
        return
    from broker.stores.redis import address

    try:
        address.parse(settings.redis_url)
    except ValueError as error:
        raise BadSetting("redis_url", str(error)) from None


def make_store(settings: Settings, clock: Clock) -> Store:
    """The store for these settings, which `check_store` has accepted. It is not started."""
    if settings.redis_url is not None:
        return _redis_store(settings, settings.redis_url, clock)
    return MemoryStore(
        settings.retention(),
        clock=clock,
        max_log_bytes=settings.log_memory_bytes,
        max_topics=settings.max_topics,
        topic_memory_seconds=settings.topic_memory_seconds,
        idempotency_seconds=settings.idempotency_seconds,
        max_key_bytes=settings.idempotency_memory_bytes,
    )


def _redis_store(settings: Settings, url: str, clock: Clock) -> Store:
    from broker.stores.redis import address, options, store

    store_options = options.StoreOptions(
        prefix=settings.redis_prefix,
        failover_margin_ms=settings.failover_margin_ms,
        wait_replicas=settings.redis_wait_replicas,
        max_log_bytes=settings.log_memory_bytes,
        max_topics=settings.max_topics,
        topic_memory_seconds=settings.topic_memory_seconds,
        idempotency_seconds=settings.idempotency_seconds,
        max_key_bytes=settings.idempotency_memory_bytes,
        seen_directory=_seen_directory(url),
    )
    return store.RedisStore(address.parse(url), settings.retention(), store_options, clock=clock)


def _seen_directory(url: str) -> Path | None:
    """Where instances keep the ids that they have seen: next to the socket of a server of `data`. None for other servers."""
    parts = urlsplit(url)
    directory = Path(unquote(parts.path)).parent / SEEN_DIRECTORY
    return directory if parts.scheme == "unix" and directory.is_dir() else None


def suspect_command(prefix: str) -> Sequence[str]:
    """The command for a Redis server that may have lost events which no instance has seen. See the script `state.lua`."""
    from broker.stores.redis.names import Names

    return ("HSET", Names(prefix, 0, "").key("state"), "suspect", "1")
