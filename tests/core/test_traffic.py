import pytest

from flasc_flwr.core.traffic import Direction, Sent, Traffic


def test_messages_are_added_up_by_round_client_and_direction():
    traffic = Traffic()
    for round, client, way, size in (
        (1, "0", Direction.DOWN, 10),
        (1, "0", Direction.DOWN, 20),
        (1, "0", Direction.UP, 1),
        (1, "1", Direction.DOWN, 5),
        (2, "0", Direction.DOWN, 7),
    ):
        traffic.record(
            Sent(
                round=round,
                client=client,
                direction=way,
                payload=size,
                message=size + 100,
                vectors=1,
            )
        )
    assert len(traffic.sent) == 4
    assert traffic.rounds[1]["0", Direction.DOWN].message == 230
    assert traffic.totals(1) == {
        "payload_bytes_down": 35,
        "payload_bytes_up": 1,
        "message_bytes_down": 335,
        "message_bytes_up": 101,
    }
    assert traffic.totals()["payload_bytes_down"] == 42
    assert traffic.totals(3)["message_bytes_up"] == 0
    assert traffic.dense_float32_bytes(3) == 4 * 3 * 5


def test_names_change_in_one_round_and_all_at_once():
    traffic = Traffic()
    for round, client, message in ((0, "1", 10), (0, "2", 20), (1, "1", 5)):
        traffic.record(
            Sent(
                round=round,
                client=client,
                direction=Direction.UP,
                payload=0,
                message=message,
            )
        )
    traffic.rename(0, {"1": "2", "2": "3"})
    sums = [(s.round, s.client, s.message) for s in traffic.sent]
    assert sorted(sums) == [(0, "2", 10), (0, "3", 20), (1, "1", 5)]


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        (20_000, "1 kB down and 0 B up; plain arrays: 20 kB (20.0 times)"),
        (1_100, "1 kB down and 0 B up; plain arrays: 1.1 kB (1.1 times)"),
        (1_040, "1 kB down and 0 B up; plain arrays: 1.04 kB"),
        (200, "1 kB down and 0 B up; plain arrays: 200 B"),
        (0, "1 kB down and 0 B up"),
    ],
)
def test_savings_are_named_where_there_are_some(plain, says):
    traffic = Traffic()
    sent = {"payload": 900, "message": 1000, "plain": plain}
    traffic.record(Sent(round=1, client="0", direction=Direction.DOWN, **sent))
    assert traffic.in_words() == says


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (999, "999 B"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (999_999_999, "1 GB"),
        (2_500_000_000_000, "2.5 TB"),
    ],
)
def test_bytes_are_named_in_a_unit_that_needs_no_exponent(sent, says):
    traffic = Traffic()
    sizes = {"payload": 0, "message": sent}
    traffic.record(Sent(round=1, client="0", direction=Direction.UP, **sizes))
    assert traffic.in_words() == f"0 B down and {says} up"
