"""An attack on a broker costs its other clients nothing, and leaves nothing behind.

Each attack runs twice: during the first the allocator takes the memory it needs, during the second it must not take more.
`tests/bench/attacks.py` measures how long others wait for their events meanwhile.
"""

from __future__ import annotations

import pytest

from broker.descriptors import RESERVED
from tests.live import attacks, control_crowd
from tests.live.attacks import ATTACKS, Attack, Attacker
from tests.live.control_crowd import ControlCrowd
from tests.support.broker_process import BrokerProcess
from tests.support.waiting import wait_for

SETTINGS = {
    "head_seconds": 1,
    "body_seconds": 1,
    "slow_seconds": 1,
    "heartbeat_seconds": 1,
    "retention_events": 5000,
    "max_topics": 2000,
    "idempotency_seconds": 1,
    "idempotency_memory_bytes": 1 << 20,
}
GROWTH = 1.1
OWN_REQUESTS = 2
"""Connections of the test's own: the control crowd's publisher, and the one that asks."""


def attacked(broker: BrokerProcess, subscribers: ControlCrowd, attacker: Attacker, attack: Attack) -> None:
    """Run the attack to its end, and until nothing of it is left."""
    subscribers.report()
    attacker.run(attack, broker.port)
    assert len(subscribers.report().seconds) > 0, "nothing was published meanwhile"
    wait_for(
        lambda: broker.metric("broker_request_connections") <= OWN_REQUESTS, "its connections to be gone"
    )
    wait_for(lambda: broker.metric("broker_subscribers") == control_crowd.COUNT, "its streams to be gone")


@pytest.mark.slow
@pytest.mark.exclusive  # memory is compared, and everything shares the CPU with hundreds of subscribers
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_i9_no_other_client_notices_and_nothing_stays(attack: Attack) -> None:
    with (
        BrokerProcess(**SETTINGS) as broker,
        ControlCrowd(broker.port) as subscribers,
        Attacker() as attacker,
    ):
        attacked(broker, subscribers, attacker, attack)
        before = broker.resident_bytes()
        attacked(broker, subscribers, attacker, attack)
        wait_for(lambda: broker.resident_bytes() <= before * GROWTH, "the memory to come back")
        assert broker.metric("broker_topics") <= SETTINGS["max_topics"] + 1
        warnings = [line for line in broker.output.splitlines() if " WARNING " in line]
        assert [line for line in warnings if "stream closed" not in line] == [], "slow readers are warned of"
        assert " ERROR " not in broker.output, broker.output


def test_streamed_bodies_leave_descriptors_to_others() -> None:
    """260 streamed bodies at 256 descriptors kept all other clients out."""
    with BrokerProcess(descriptors=256 + RESERVED) as broker, Attacker() as attacker:
        attacker.run(attacks.streamed_bodies, broker.port)
        assert broker.metric('broker_refused_bodies_total{limit="bodies"}') > 0
        wait_for(lambda: broker.metric("broker_bodies") == 0, "they are gone")
        assert " ERROR " not in broker.output, broker.output


def test_descriptors_that_run_out_are_taken_from_the_longest_waiting() -> None:
    """More connections than there is room for: streams stay, and there is always room for one more request."""
    with (
        BrokerProcess(descriptors=1000 + RESERVED) as broker,
        ControlCrowd(broker.port) as subscribers,
        Attacker() as attacker,
    ):
        attacker.run(attacks.more_than_there_is_room_for, broker.port)
        assert broker.publish(attacks.TOPIC, "afterwards")
        assert broker.metric('broker_cut_requests_total{reason="room"}') > 0
        assert len(subscribers.report().seconds) > 0
        assert broker.metric("broker_subscribers") == control_crowd.COUNT
        assert " ERROR " not in broker.output, broker.output
