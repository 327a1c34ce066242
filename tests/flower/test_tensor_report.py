"""The tensor report of a known vector."""

import numpy as np
import pytest

from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.state.tensor_report import Kept, by_tensor

LAYOUT = Layout.of({"a": np.zeros((2, 2)), "b": np.zeros(6)})


def sparse(*positions):
    return SparseVector(10, np.array(positions), np.ones(len(positions), np.float32))


def test_kept_fractions_are_means_over_the_updates():
    kept = Kept(LAYOUT)
    assert kept.fractions() == [None, None]
    kept.add(sparse(0, 1, 4))
    kept.add(sparse(3))
    assert kept.fractions() == pytest.approx([3 / 8, 1 / 12])


def test_bits_are_of_measured_bytes():
    traffic = Traffic()
    for client, payload in (("x", 100), ("y", 50)):
        for way in Direction:
            traffic.record(
                Sent(
                    round=3,
                    client=client,
                    direction=way,
                    payload=payload,
                    message=200,
                    vectors=1,
                )
            )
    table = by_tensor(LAYOUT, sparse(0, 2, 3), 80, "float32", Kept(LAYOUT), traffic, 3)
    assert table["bits_per_parameter"] == {"down": 64.0, "up": 60.0}
    a, b = table["tensors"]
    assert (a["name"], a["shape"], a["entries"]) == ("a", [2, 2], 4)
    assert (a["kept_down"], b["kept_down"], b["bits_down"]) == (0.75, 0.0, 0.0)
    # Some bytes for values and positions, fewer than a whole payload with its header.
    assert 0 < a["bits_down"] < 8 * len(encode(sparse(0, 2, 3))) / 4


def test_bits_of_a_head_are_those_of_its_own_format():
    layout = Layout.of(
        {"m.lora_A.weight": np.zeros((4, 50)), "head.weight": np.zeros((4, 50))}
    )
    values = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    download = SparseVector.of_dense(values)
    table = by_tensor(
        layout, download, 900, "float32+head=int4", Kept(layout), Traffic(), 1
    )
    factor, head = (tensor["bits_down"] for tensor in table["tensors"])
    assert head < 6 < 24 < factor
