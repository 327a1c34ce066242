"""Nodes that leave between a round's training and its end."""

import pytest
from flwr.app import MetricRecord

from flasc_flwr import Flasc
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter
from tests.flower.fleet import Fleet


class Leaving(Fleet):
    """Some nodes leave as soon as they have replied in a round."""

    def __init__(self, count, leaving):
        super().__init__(count)
        self.leaving = leaving

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        if any("arrays" in reply.content for reply in replies):
            self.away |= self.leaving
        return replies


@pytest.mark.parametrize("fraction_evaluate", [0.0, 1.0])
@pytest.mark.parametrize("leaving", [{2}, {1, 2}])
def test_a_round_that_was_trained_counts_though_nodes_have_left(
    leaving, fraction_evaluate
):
    strategy = Flasc(fraction_train=1.0, fraction_evaluate=fraction_evaluate)
    strategy.start(
        Leaving(2, leaving),
        array_record(adapter()),
        1,
        timeout=0.3,
        evaluate_fn=lambda current, arrays: MetricRecord({"loss": 1.0}),
    )
    row = strategy.state.history[1]
    assert (row["replies"], row["loss"], row["failures"]) == (2, 1.0, [])
    assert ("clients_total" in row) == (leaving == {2} and fraction_evaluate == 1)
