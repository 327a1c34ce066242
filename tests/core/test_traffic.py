from flasc_flwr.traffic import Direction, Sent, Traffic


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
