"""Segments: each client sends one part of its update, round robin."""

import numpy as np
import pytest

from flasc_flwr.core.aggregation import Contribution, aggregator
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.core.ranks import truncation
from flasc_flwr.core.segments import Segment, segment_of
from flasc_flwr.core.sparsity import top_k
from tests.core.cohort import LAYOUT, RANK, START, client


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 34_058])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_segments_cover_each_entry_once_and_are_of_equal_size(size, count):
    places = [Segment(i, count).place(size) for i in range(count)]
    covered = [p for place in places for p in range(place.start, place.stop)]
    assert covered == list(range(size))
    lengths = [place.stop - place.start for place in places]
    assert max(lengths) - min(lengths) <= 1


def test_a_client_sends_each_segment_once_in_as_many_turns():
    for name in ("0", "17", "hospital"):
        turns = [segment_of(name, turn, 5).index for turn in range(1, 6)]
        assert sorted(turns) == list(range(5))
    # Clients of consecutive numbers send different ones.
    assert len({segment_of(str(i), 3, 5) for i in range(5)}) == 5


def test_each_entry_is_averaged_over_those_who_were_to_send_it():
    """Of unequal ranks, weights and segments, against a plain loop over entries."""
    rng = np.random.default_rng(0)
    start = LAYOUT.flatten(START)
    sums, weights = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
    rule = aggregator("senders")(LAYOUT, start)
    for weight in (1.0, 2.0, 0.5):
        segment = np.flatnonzero(rng.random(LAYOUT.size) < 0.4)
        update = np.zeros(LAYOUT.size, np.float32)
        update[segment] = rng.standard_normal(len(segment))
        sent = top_k(update, 0.2)  # what is not sent of it counts as zero
        rule.add(Contribution(sent, RANK, weight, segment))
        sums += weight * sent.densify()
        weights[segment] += weight
    ours = rule.result().update
    assert (weights == 0).any()
    expected = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_without_segments_senders_is_replication():
    start = LAYOUT.flatten(START)
    ours, theirs = (aggregator(n)(LAYOUT, start) for n in ("senders", "replication"))
    rng = np.random.default_rng(2)
    for rank in (1, 3, 5):
        update = top_k(rng.standard_normal(LAYOUT.size).astype(np.float32), 0.5)
        for rule in (ours, theirs):
            rule.add(Contribution(update, rank, 1.0 + rank))
    np.testing.assert_array_equal(ours.result().update, theirs.result().update)


def test_segments_choose_the_rule_that_counts_who_sent_them():
    assert METHODS["segments"].aggregation == "senders"
    assert compose("flasc", upload_segments=4).aggregation == "senders"
    # Replication of who has a component, and senders of who sent an entry of it.
    for name in ("replication", "fed-sb", "ravan"):
        assert compose(name, upload_segments=4).aggregation == "senders"
    own = compose("flasc", upload_segments=4, aggregation="zero-padding")
    assert own.aggregation == "zero-padding"
    # What feedback sends later must not count more for that.
    for name in ("flasc-ef", "flasc", "fed-sb"):
        fed_back = compose(name, upload_segments=4, error_feedback="up")
        assert fed_back.aggregation == METHODS[name].aggregation
    fed_back = compose("segments", error_feedback="up")
    assert fed_back.aggregation == "zero-padded-updates"
    with pytest.raises(ValueError, match="aggregation must not be 'senders'"):
        compose("segments", error_feedback="up", aggregation="senders")
    with pytest.raises(ValueError, match="upload-segments must be 1 .*, got 2"):
        compose("flasc-shared-mask", upload_segments=2)
    with pytest.raises(ValueError, match="upload-segments must be an integer >= 1"):
        compose("flasc", upload_segments=0)


def test_a_segment_of_a_lower_rank_lies_where_its_components_do():
    cut = truncation(LAYOUT, 2)
    trained = client(1, 2)
    whole = cut.pad(cut.layout.flatten(trained))
    for index in range(3):
        place = Segment(index, 3).place(cut.layout.size)
        part = cut.layout.flatten(trained)[place]
        np.testing.assert_array_equal(whole[cut.positions(place)], part)
    assert cut.positions(slice(0, 4)).tolist() == cut.places[:4].tolist()
    full = truncation(LAYOUT, None)
    assert full.positions(slice(3, 6)).tolist() == [3, 4, 5]
