"""The names of keys and channels: versions of the broker share a server, so they never change."""

from __future__ import annotations

from broker.stores.redis.names import Names

NAMES = Names("broker:", 3, "c0ffee")


def test_keys() -> None:
    assert NAMES.key("state") == "broker:{b}:state"
    assert NAMES.key("instances", "held") == "broker:{b}:instances:held"
    assert NAMES.keys("state", "leases") == ["broker:{b}:state", "broker:{b}:leases"]
    assert NAMES.topic_keys("news.eu") == ("broker:{b}:log:news.eu", "broker:{b}:rec:news.eu")
    assert (NAMES.key_prefix("log"), NAMES.key_prefix("rec")) == ("broker:{b}:log:", "broker:{b}:rec:")


def test_channels() -> None:
    assert NAMES.channel("news.eu") == "broker:3:news.eu"
    assert NAMES.channel_prefix == "broker:3:"
    assert NAMES.broadcast_channel == "broker:3:/notices"
    assert NAMES.probe_channel == "broker:3:_probe:c0ffee"
