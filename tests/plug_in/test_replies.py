"""What a reply is, and what becomes of it: weights, updates, or something else."""

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    FedMedian,
)
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.flower.transport.evidence import are_trained, word_of
from flasc_flwr.flower.transport.parcel import UPLOAD, is_parcel
from flasc_flwr.flower.wire import PART, array_record
from tests.plug_in.numpy_app import RecordingGrid, client_app
from tests.plug_in.patchy import (
    SPARSE,
    Noting,
    PatchyGrid,
    drift,
    one_round,
    run,
    start_arrays,
)

SIZE = 1500


def are(received, returned):
    return are_trained(
        array_record({"a": received}), array_record({"a": returned}), ["a"]
    )


@given(st.integers(0, 99), st.floats(0.01, 100), st.floats(0.001, 0.6))
def test_weights_and_updates_are_told_apart(seed, scale, step):
    draw = np.random.default_rng(seed)
    weights, other = (scale * draw.standard_normal((2, 500))).astype(np.float32)
    assert are(weights, weights)
    assert are(weights, weights + np.float32(step) * other)
    for size in (0.001, 0.1, 1, 10):
        assert not are(weights, np.float32(size) * other)
        # Weight decay, and a gradient that has a part along the weights.
        assert not are(weights, np.float32(size) * (other + 0.5 * weights))
    assert not are(weights, -weights)
    assert not are(weights, 0 * weights)


def test_where_only_zeros_were_received_nothing_can_be_said():
    assert not are(np.zeros(9), np.ones(9))
    assert not are(np.ones(9, np.float32), np.full(9, np.nan, np.float32))


def test_the_most_particular_word_about_a_record_counts():
    words = {"grad*": "updates", "gradual": "weights"}
    assert word_of(words, "gradient") == "updates"
    assert word_of(words, "gradual") == "weights"
    assert word_of(words, "arrays") == "auto"
    assert word_of("updates", "arrays") == "updates"


def deltas(arrays, client, current):
    """Return the change of each array, in place of the array."""
    return {n: a - arrays[n] for n, a in drift(arrays, client, current).items()}


@pytest.mark.parametrize("kind", [Noting, FedAvg])
def test_replies_that_are_not_weights_arrive_as_they_are(kind, logged):
    seen = {}

    def noting(arrays, client, current):
        seen[client + 1] = deltas(arrays, client, current)
        return seen[client + 1]

    _, grid, inner, result = run(noting, rounds=1, inner=kind(fraction_evaluate=0))
    line = "Record 'arrays' of replies: untouched, as it does not look like the sent"
    assert logged().count(line) == 1
    assert not any(is_parcel(m.content["arrays"], UPLOAD) for m in grid.up)
    if kind is Noting:
        for node, arrays in inner.given[0].items():
            for name, array in arrays.items():
                assert np.array_equal(array, seen[node][name])
    for name, array in result.arrays.items():
        weights = [10 * node for node in seen]
        mean = np.average([seen[node][name] for node in seen], axis=0, weights=weights)
        np.testing.assert_allclose(array.numpy(), mean, rtol=1e-4, atol=1e-7)


def test_replies_said_to_be_updates_are_sparse_and_zero_where_nothing_was_sent():
    _, grid, inner, _ = run(deltas, rounds=1, replies="updates")
    assert all(is_parcel(m.content["arrays"], UPLOAD) for m in grid.up)
    for arrays in inner.given[0].values():
        assert np.count_nonzero(arrays["weight"]) <= 1200 // 8
        assert 0 < np.abs(arrays["weight"]).max() < 0.2
        assert np.count_nonzero(arrays["bias"]) == 30


def test_what_updates_leave_out_is_sent_later():
    total = {}

    class Server(Noting):
        """Adds the mean of the replies to its arrays."""

        def aggregate_train(self, server_round, replies):
            mean, metrics = super().aggregate_train(server_round, replies)
            moved = {n: a + mean[n].numpy() for n, a in self.sent[-1].items()}
            return array_record(moved), metrics

    def noting(arrays, client, current):
        new = deltas(arrays, client, current)
        total[client + 1] = total.get(client + 1, 0) + new["weight"]
        return new

    _, grid, inner, _ = run(noting, rounds=5, inner=Server(), replies="updates")
    for node, trained in total.items():
        memory = grid.memory(node)
        held = memory.layout.unflatten(memory.residual)["weight"]
        taken = sum(given[node]["weight"] for given in inner.given)
        np.testing.assert_allclose(taken + held, trained, atol=1e-5)


@pytest.mark.parametrize("streamed", [True, False])
def test_updates_are_averaged_one_by_one_like_all_together(streamed):
    inner = FedAvg(fraction_evaluate=0) if streamed else Noting()
    _, _, _, result = run(deltas, rounds=1, inner=inner, replies="updates")
    array = result.arrays["weight"].numpy()
    assert 0 < np.count_nonzero(array) < 1200 / 2
    assert np.abs(array).max() < 0.2


@pytest.mark.parametrize("masked", [True, False])
def test_updates_that_travel_whole_arrive_as_they_are(masked):
    """Though downloads are sparse, what was received is not subtracted from them."""
    settings = {"error_feedback": "none"} if masked else {}
    sent = {}

    def noting(arrays, client, current):
        sent[client + 1, current] = new = deltas(arrays, client, current)
        return new

    lossless_up = {"upload_density": 1, "values": "float32", "replies": "updates"}
    _, _, inner, _ = run(noting, rounds=2, **lossless_up, **settings)
    for current, replies in enumerate(inner.given, 1):
        for node, arrays in replies.items():
            for name, array in arrays.items():
                assert np.array_equal(array, sent[node, current][name])


def test_replies_said_to_be_weights_are_sparse_however_far_they_are():
    def leap(arrays, client, current):
        return {n: a + np.float32(5) for n, a in arrays.items()}

    _, grid, _, _ = run(leap, rounds=1)
    assert not any(is_parcel(m.content["arrays"], UPLOAD) for m in grid.up)
    _, grid, _, _ = run(leap, rounds=1, replies={"arr*": "weights"})
    assert all(is_parcel(m.content["arrays"], UPLOAD) for m in grid.up)


def test_a_lone_record_under_another_key_is_paired_only_if_it_is_weights():
    app = client_app(deltas, reply_key="delta")
    grid = RecordingGrid(app, 3)
    SparseTransport(FedAvg(fraction_evaluate=0), **SPARSE).start(
        grid, array_record(start_arrays()), 1
    )
    assert not any(is_parcel(m.content["delta"], UPLOAD) for m in grid.up)
    grid = RecordingGrid(client_app(drift, reply_key="model"), 3)
    SparseTransport(FedAvg(fraction_evaluate=0), **SPARSE).start(
        grid, array_record(start_arrays()), 1
    )
    assert all(is_parcel(m.content["model"], UPLOAD) for m in grid.up)


def test_a_reply_with_some_of_the_arrays_is_sparse_and_the_others_are_not_invented():
    def part(arrays, client, current):
        return {"weight": drift(arrays, client, current)["weight"]}

    _, grid, inner, _ = run(part, rounds=1)
    assert all(is_parcel(m.content["arrays"], UPLOAD) for m in grid.up)
    for arrays in inner.given[0].values():
        assert list(arrays) == ["weight"]
        step = arrays["weight"] - start_arrays()["weight"]
        assert 0 < np.count_nonzero(step) <= 1200 // 8


def test_the_residual_of_arrays_that_are_missing_waits():
    def part(arrays, client, current):
        new = drift(arrays, client, current)
        return {"weight": new["weight"]} if current == 2 else new

    _, grid, _, _ = run(part, rounds=1)
    before = grid.memory(1).layout.unflatten(grid.memory(1).residual)["head"]
    _, grid, _, _ = run(part, rounds=2)
    after = grid.memory(1).layout.unflatten(grid.memory(1).residual)["head"]
    assert np.count_nonzero(before) > 0
    np.testing.assert_array_equal(before, after)


def test_a_reply_with_more_arrays_is_sparse_and_these_travel_whole():
    extra = np.arange(6.0).reshape(2, 3)

    def more(arrays, client, current):
        new = drift(arrays, client, current)
        return {"first": extra, "weight": new["weight"], "head": new["head"]}

    _, grid, inner, _ = run(more, rounds=1)
    assert all(is_parcel(m.content["arrays"], UPLOAD) for m in grid.up)
    for arrays in inner.given[0].values():
        assert list(arrays) == ["first", "weight", "head"]
        assert np.array_equal(arrays["first"], extra)


@pytest.mark.parametrize("rename", [lambda i, n: str(i), lambda i, n: f"_module.{n}"])
def test_renamed_arrays_arrive_as_they_are(rename):
    seen = {}

    def renamed(arrays, client, current):
        new = drift(arrays, client, current)
        seen[client + 1] = {rename(i, n): a for i, (n, a) in enumerate(new.items())}
        return seen[client + 1]

    _, _, inner, _ = run(renamed, rounds=1)
    for node, arrays in inner.given[0].items():
        assert arrays.keys() == seen[node].keys()
        assert all(np.array_equal(a, seen[node][n]) for n, a in arrays.items())


@pytest.mark.parametrize("kind", [FedAvg, FedMedian])
def test_sparse_and_whole_replies_of_one_app_are_alike(kind, logged):
    def mixed(arrays, client, current):
        return (deltas if client == 1 else drift)(arrays, client, current)

    _, grid, _, result = run(mixed, rounds=2, inner=kind(fraction_evaluate=0))
    kinds = {is_parcel(m.content["arrays"], UPLOAD) for m in grid.up}
    assert kinds == {True, False}
    assert "Rejected" not in logged()
    assert len(result.train_metrics_clientapp) == 2


@pytest.mark.parametrize("indices", [[9], [], [-1], ["0"], [0, 0], "0"])
def test_a_reply_that_lists_other_arrays_than_it_has_is_rejected(indices, logged):
    def tampered(message, context, call_next):
        reply = call_next(message, context)
        if context.node_config["partition-id"] == 1:
            reply.content["flasc"][PART + "arrays"] = indices or [7]
        return reply

    app = client_app(drift, mods=[tampered, flasc_mod])
    inner = Noting()
    grid = PatchyGrid(app, 3)
    SparseTransport(inner, **SPARSE).start(grid, array_record(start_arrays()), 1)
    assert sorted(inner.given[0]) == [1, 3]
    assert list(inner.failed[0]) == [2]


def test_arrays_that_are_not_finite_are_named_once_and_the_run_continues(logged):
    start = start_arrays()
    start["mask"] = np.full((40, 40), np.finfo(np.float32).min)
    start["broken"] = np.full((40, 40), np.nan, np.float32)
    transport = SparseTransport(Noting(), **SPARSE)
    grid = PatchyGrid(client_app(drift), 3)
    transport.start(grid, array_record(start), 2)
    lines = [line for line in logged().splitlines() if "travel whole: they" in line]
    assert len(lines) == 1
    assert "'mask'" in lines[0] and "'broken'" in lines[0]


def test_no_array_starves_and_one_that_does_is_named(logged):
    def lopsided(arrays, client, current):
        new = drift(arrays, client, current)
        new["head"] = arrays["head"] + (new["head"] - arrays["head"]) / 1000
        return new

    _, grid, _, _ = run(lopsided, rounds=3)
    assert "has travelled" not in logged()
    run(lopsided, rounds=3, quota="none")
    assert "less than 1 % of 'head' has travelled in 3 rounds" in logged()


def client_private(inner):
    return DifferentialPrivacyClientSideFixedClipping(inner, 0.1, 5.0, 3)


def server_private(inner):
    return DifferentialPrivacyServerSideFixedClipping(inner, 0.1, 5.0, 3)


def around_private(inner):
    """A wrapper of the user's own, around one of Flower's."""

    class Around(FedAvg):
        def __init__(self, wrapped):
            super().__init__()
            self.wrapped = wrapped
            self.configure_train = wrapped.configure_train
            self.aggregate_train = wrapped.aggregate_train

    return Around(server_private(inner))


@pytest.mark.parametrize("wrapper", [client_private, server_private, around_private])
def test_differential_privacy_has_no_error_feedback_and_says_so(wrapper, logged):
    with pytest.raises(ValueError, match="a residual carries one round's data"):
        SparseTransport(wrapper(FedAvg()), error_feedback="both")
    mods = [flasc_mod] + [fixedclipping_mod] * (wrapper is client_private)
    grid = PatchyGrid(client_app(drift, mods=mods), 3)
    transport = SparseTransport(wrapper(FedAvg()))
    transport.start(grid, array_record(start_arrays()), 1)
    assert "no error feedback with differential privacy" in logged()
    assert grid.memory(1) is None


def local_noise():
    return LocalDpMod(clipping_norm=1.0, sensitivity=1e-6, epsilon=10, delta=1e-5)


def test_a_device_that_adds_noise_carries_nothing_into_the_next_round(logged):
    grid = PatchyGrid(client_app(drift, mods=[flasc_mod, local_noise()]), 3)
    SparseTransport(Noting(), **SPARSE).start(grid, array_record(start_arrays()), 2)
    assert "No error feedback, as updates are clipped or have noise" in logged()
    memory = grid.memory(1)
    assert not memory.residual.any() and not memory.unconfirmed
    assert memory.reference is not None


def test_masks_of_weights_are_by_name_and_warned_of(logged):
    with pytest.raises(ValueError, match="with error_feedback 'up', downloads"):
        SparseTransport(FedAvg(), error_feedback="up", download_density=1 / 4)
    run(rounds=1, error_feedback="none", download_density=1 / 4)
    assert "SparseTransport masks weights" in logged()


def test_a_flattened_model_is_sparse():
    arrays = ArrayRecord(
        [np.random.default_rng(0).standard_normal(5000).astype(np.float32)]
    )
    grid = RecordingGrid(client_app(drift), 3)
    transport = SparseTransport(Noting(), **SPARSE)
    one_round(transport, grid, arrays)
    assert all(is_parcel(m.content["arrays"], UPLOAD) for m in grid.up)
