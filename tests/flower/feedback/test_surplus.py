"""Replies that are not needed any more still say what their devices remember."""

import pytest

from flasc_flwr import Flasc
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter
from tests.flower.feedback.patchy import PatchyGrid
from tests.flower.test_measured_bases import ADAPTER, METHOD, SIDES, Devices

LAST = {"oversample": 2.0, "fraction_train": 1.0, "min_train_nodes": 2}


class Ordered(PatchyGrid):
    """Replies come in the order of `nodes`."""

    nodes = (1, 2)

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        return sorted(replies, key=lambda r: self.nodes.index(r.metadata.src_node_id))


@pytest.mark.parametrize("events", [{}, {(2, 2): "state lost"}, {(2, 1): "reply lost"}])
def test_a_device_whose_replies_were_not_needed_is_sent_what_it_lacks(events):
    grid = Ordered(2, events)

    def on_round(row):
        if row["round"] == 3:
            grid.nodes = (2, 1)

    method = compose("flasc-ef")
    strategy = Flasc(method=method, server_optimizer=Sgd(), on_round=on_round, **LAST)
    strategy.start(grid, array_record(adapter()), 4)
    rows = strategy.state.history[1:]
    assert [row["replies"] for row in rows] == [1] * 4
    assert rows[3]["failures"] == []
    lengths = [control.get("memory-lengths") for node, control, _ in grid.sent]
    assert lengths[-2:] == [None, None]  # one payload each: the newest


def test_bases_are_not_sent_again_to_a_device_whose_reply_was_not_needed():
    devices = Devices(2)
    pull = devices.fleet.pull_messages
    devices.fleet.pull_messages = lambda ids: sorted(
        pull(ids), key=lambda reply: reply.metadata.src_node_id
    )
    strategy = Flasc(method=METHOD, core_sides=SIDES, **LAST)
    strategy.start(devices.fleet, array_record(ADAPTER), 4)
    sizes = [row["payload_bytes_down"] for row in strategy.state.history]
    # In the round after they were measured, both devices are sent them.
    assert max(sizes[3:]) < sizes[2] / 2
