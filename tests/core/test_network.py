from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.app.runs.link_times import (
    ON_THE_LINK,
    Link,
    Reached,
    by_tier,
    drawn,
    elapsed,
    round_seconds,
    same,
    seconds_to,
)

SLOW = Link(download=8.0, upload=0.8, latency=0.25)
megabits = st.floats(0.01, 1000)
seconds = st.floats(0, 10)
links = st.builds(Link, download=megabits, upload=megabits, latency=seconds)
cohorts = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)


def test_a_round_by_hand():
    # 8 Mbit/s are 1,000,000 bytes a second, 0.8 Mbit/s are 100,000.
    clients = {"0": (2_000_000, 100_000), "1": (1_000_000, 300_000)}
    # Headers make 4 bytes more of each 100.
    slowest = 0.25 + 1.04 * 1 + 0.25 + 1.04 * 3
    assert round_seconds(1, clients, same(SLOW)) == pytest.approx(slowest)
    computed = round_seconds(1, clients, same(SLOW), compute=2)
    assert computed == pytest.approx(slowest + 2)
    assert round_seconds(0, clients, same(SLOW), compute=2) == pytest.approx(slowest)


def test_a_client_that_did_not_answer_costs_its_download_alone():
    clients = {"0": (1_000_000, 0)}
    assert round_seconds(1, clients, same(SLOW), compute=2) == pytest.approx(1.29)
    assert round_seconds(1, {}, same(SLOW), compute=2) == 0


def test_a_run_by_hand():
    exchanges = {1: {"0": (1_000_000, 0)}, 3: {"0": (0, 100_000)}}
    assert elapsed([0, 1, 2, 3], exchanges, same(SLOW)) == pytest.approx(
        [0, 1.29, 1.29, 2.58]
    )


@given(cohorts, links, st.floats(1, 16), seconds)
def test_a_slower_upload_is_never_faster(clients, link, factor, compute):
    slower = Link(
        download=link.download, upload=link.upload / factor, latency=link.latency
    )
    assert round_seconds(1, clients, same(slower), compute=compute) >= round_seconds(
        1, clients, same(link), compute=compute
    )


def test_a_link_carries_more_bytes_than_a_message_has():
    bare = 1_000_000 * 8e-6
    link = Link(download=1.0, upload=1.0)
    assert link.seconds(1_000_000, 0) == pytest.approx(ON_THE_LINK * bare)
    assert 1 < ON_THE_LINK < 1.1


@given(cohorts, megabits, megabits)
def test_twice_the_bandwidth_without_latency_takes_half_the_time(clients, down, up):
    once = same(Link(download=down, upload=up))
    twice = same(Link(download=2 * down, upload=2 * up))
    assert round_seconds(1, clients, twice) == pytest.approx(
        round_seconds(1, clients, once) / 2
    )


@given(cohorts, links, links)
def test_a_round_lasts_as_long_as_its_slowest_client(clients, first, second):
    link_of = {c: first if c in "abc" else second for c in clients}.__getitem__
    alone = [round_seconds(1, {c: b}, link_of) for c, b in clients.items()]
    assert round_seconds(1, clients, link_of) == max(alone, default=0)


def test_tiers_are_those_of_the_methods():
    fast, slow = Link(download=9, upload=9), Link(download=1, upload=1)
    link_of = by_tier([slow, fast])
    assert [link_of(client) for client in ("0", "1", "2", "13")] == [
        *(slow, fast, slow, fast)
    ]


def test_drawn_links_have_their_shares_and_stay_with_their_clients():
    fast, slow = Link(download=9, upload=9), Link(download=1, upload=1)
    link_of = drawn([fast, slow], [3, 1], seed=5)
    clients = [str(number) for number in range(4000)]
    counts = Counter(link_of(client) for client in clients)
    # Four standard deviations of a binomial draw are 110.
    assert abs(counts[fast] - 3000) < 110
    again, other = drawn([fast, slow], [3, 1], 5), drawn([fast, slow], [3, 1], 6)
    assert [link_of(c) for c in clients] == [again(c) for c in reversed(clients)][::-1]
    assert [link_of(c) for c in clients] != [other(c) for c in clients]


@pytest.mark.parametrize(
    ("accuracies", "first", "stays"),
    [
        ([0.1, 0.7, 0.6, 0.8, 0.9], 2, 4),
        ([0.1, None, 0.7, None, 0.8], 3, 3),
        ([0.1, 0.9, 0.6, None, None], 2, None),
        ([0.1, None, 0.6, None, None], None, None),
        ([0.7, 0.8, 0.9, 0.7, None], 1, 1),
    ],
)
def test_a_target_is_reached_and_kept(accuracies, first, stays):
    assert seconds_to(0.7, accuracies, [1, 2, 3, 4, 5]) == Reached(first, stays)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Link(download=0, upload=1), r"download must be .*1e6\], got 0"),
        (lambda: Link(download=1, upload=-1), "upload must be .*, got -1"),
        (lambda: Link(download=1, upload=1, latency=-1), "latency must be .*, got -1"),
        (lambda: Link.slower_up(10, 0), "up-slower must be .*, got 0"),
        (lambda: drawn([SLOW], [0], 0), "share must be .*, got 0"),
        (lambda: drawn([SLOW], [1, 1], 0), "shares must be .*, got 2"),
        (lambda: seconds_to(70, [0.7], [1]), r"target must be .*\[0, 1\]"),
        (
            lambda: round_seconds(1, {}, same(SLOW), compute=-1),
            "compute must be",
        ),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
