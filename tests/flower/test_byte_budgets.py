"""Bytes as the budget: payloads of whole runs, measured where they travel."""

import re
from contextlib import nullcontext as nothing

import numpy as np
import pytest

from flasc_flwr import Flasc
from flasc_flwr.core.codec import decode, most_bytes_of_one_entry
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.served import MOST_SERVED
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.ranks import truncation
from flasc_flwr.flower.state.checkpoint import CheckpointError
from flasc_flwr.flower.state.checkpoint_files import Checkpoints, read
from flasc_flwr.flower.wire import (
    MERGED,
    array_record,
    payload_of,
)
from tests.flower.apps import RecordingGrid, client_app, nudge
from tests.flower.device import ask, content, download


def adapter():
    rng = np.random.default_rng(0)
    shapes = {"q.lora_A.weight": (8, 300), "v.lora_A.weight": (8, 200)}
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    arrays["q.lora_B.weight"] = np.zeros((250, 8), np.float32)
    arrays["v.lora_B.weight"] = np.zeros((100, 8), np.float32)
    arrays["classifier.weight"] = rng.standard_normal((5, 40)).astype(np.float32)
    return arrays


LAYOUT = Layout.of(adapter())
N = LAYOUT.size


def run(node_configs=({}, {}, {}), rounds=3, trainer=nudge, **settings):
    grid = RecordingGrid(
        client_app(trainer), len(node_configs), node_configs=list(node_configs)
    )
    strategy = Flasc(**{"fraction_train": 1.0, **settings})
    strategy.start(grid, array_record(adapter()), rounds)
    return strategy, grid


def payloads(messages, node=None):
    """Return the payloads of the messages that have arrays, of a node or of all."""
    return [
        payload_of(message.content["arrays"])
        for message in messages
        if message.has_content()
        and "arrays" in message.content
        and node in (None, node_of(message.metadata))
    ]


def node_of(metadata):
    return (
        metadata.src_node_id if metadata.reply_to_message_id else metadata.dst_node_id
    )


def lengths(messages, node=None):
    return [len(payload) for payload in payloads(messages, node)]


def failures(strategy):
    return [f["reason"] for row in strategy.state.history for f in row["failures"]]


@pytest.mark.parametrize("values", ["float32", "bfloat16", "int4"])
def test_the_runs_bytes_are_used_and_never_exceeded(values):
    strategy, grid = run(download_bytes=2000, upload_bytes=900, values=values)
    down, up = lengths(grid.down), lengths(grid.up)
    assert len(down) == len(up) == 9
    assert all(0.97 * 2000 <= size <= 2000 for size in down)
    assert all(0.97 * 900 <= size <= 900 for size in up)
    assert not failures(strategy)


def test_the_row_has_what_the_search_chose():
    strategy, grid = run(download_bytes=2000, upload_bytes=900)
    for current, row in enumerate(strategy.state.history[1:]):
        here = slice(3 * current, 3 * current + 3)
        down, up = payloads(grid.down)[here], payloads(grid.up)[here]
        assert row["largest_payload_down"] == max(map(len, down))
        assert row["largest_payload_up"] == max(map(len, up))
        kept = [decode(payload, N).kept / N for payload in up]
        assert row["kept_up"] == pytest.approx(np.mean(kept))
        assert row["kept_down"] == pytest.approx(decode(down[0], N).kept / N)


def test_densities_are_bounds_beside_bytes():
    both = {"download_density": 1 / 16, "download_bytes": 2000}
    strategy, _ = run(**both, upload_density=0.5, upload_bytes=900)
    for row in strategy.state.history[1:]:
        assert row["kept_down"] == pytest.approx(1 / 16, abs=1e-3)
        assert row["largest_payload_down"] < 0.97 * 2000
        assert row["kept_up"] < 0.5


def test_unequal_devices_each_keep_to_their_bytes():
    own = [{"upload-bytes": 1500}, {"upload-bytes": 700, "download-bytes": 1200}, {}]
    strategy, grid = run(own, download_density=0.5, upload_density=0.25)
    assert not failures(strategy)
    for size in lengths(grid.up, 1):
        assert 0.97 * 1500 <= size <= 1500
    for size in lengths(grid.up, 2):
        assert 0.97 * 700 <= size <= 700
    for size in lengths(grid.down[3:], 2):
        assert 0.97 * 1200 <= size <= 1200
    for payload in payloads(grid.up, 3):
        assert decode(payload, N).kept == N // 4
    for payload in payloads(grid.down, 1):
        assert decode(payload, N).kept <= N // 2


def test_a_generous_limit_sends_everything_there_is():
    strategy, _ = run([{"upload-bytes": 1 << 40, "download-bytes": 1 << 40}, {}])
    for row in strategy.state.history[1:]:
        assert row["kept_up"] > 0.5  # one client all, the other 1/4


def test_a_device_of_a_lower_rank_has_its_bytes_on_its_smaller_adapter():
    own = [{"lora-rank": 2, "upload-bytes": 400, "download-bytes": 800}, {}]
    strategy, grid = run(own)
    assert not failures(strategy)
    assert all(0.97 * 400 <= size <= 400 for size in lengths(grid.up, 1))
    assert all(0.97 * 800 <= size <= 800 for size in lengths(grid.down, 1))


def fewest(**settings):
    """Return the lowest limits that a run with these settings accepts."""
    limits = {"download_bytes": 1, "upload_bytes": 1}
    for name in ("upload_bytes", "download_bytes"):  # in the order of the checks
        with pytest.raises(ValueError, match=f"{name[:2]}.*-bytes must be") as raised:
            run(**settings, **limits)
        limits[name] = int(re.findall(r">= (\d+) for", str(raised.value))[0])
    return limits


SHARES = compose("flasc", roles=RoleDensities(a=1.0, b=1.0))
RANKS = ValidationRanks(loss_of=lambda arrays: 0.5, low_rank=1, fraction=0.1)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("flasc", {"values": "step"}),
        (SHARES, {"values": "float32", "upload_density": 2 / N}),
        ("flasc-ef", {}),
        ("segments", {"values": "int8"}),
        ("flasc-tiers", {}),
        (compose("flasc", quota="tensor"), {"values": "int4+head=float16"}),
        ("replication", {"validation": RANKS, "values": "int8"}),
    ],
)
def test_the_fewest_bytes_that_are_accepted_are_enough(method, settings, caplog):
    limits = fewest(method=method, **settings)
    settings = {**settings, **limits, "rounds": 4}
    strategy, grid = run(method=method, **settings)
    assert not failures(strategy)
    assert "no entries" not in caplog.text
    assert all(size <= limits["upload_bytes"] for size in lengths(grid.up))
    assert all(row["kept_up"] > 0 for row in strategy.state.history[1:])


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"replication"}))
def test_a_devices_bytes_hold_with_every_method(method):
    """Also where the method prescribes densities, a support or dense rounds."""
    own = [{"upload-bytes": 600, "download-bytes": 1500}, {}]
    strategy, grid = run(own, method=method, rounds=4)
    assert all(size <= 600 for size in lengths(grid.up, 1))
    assert all(size <= 1500 for size in lengths(grid.down, 1))
    merged = METHODS[method].merges
    assert bool(failures(strategy)) == merged
    if merged:
        assert "this device's download-bytes, got" in failures(strategy)[0]
        assert any(MERGED in message.content for message in grid.down)


@pytest.mark.parametrize("method", ["flasc", "dense", "sparse-adapter", "fedselect"])
def test_the_runs_bytes_hold_with_methods_that_prescribe(method):
    strategy, grid = run(method=method, download_bytes=1500, upload_bytes=700, rounds=4)
    assert not failures(strategy)
    assert max(lengths(grid.down)) <= 1500
    assert max(lengths(grid.up)) <= 700
    assert min(lengths(grid.down)) >= 0.97 * 1500


def test_where_bytes_cut_the_download_only_what_came_is_trained():
    """At density 1 entries that are zero are not frozen; those cut off are."""
    strategy, grid = run(method="fedselect", download_bytes=1500, rounds=2)
    down, up = payloads(grid.down), payloads(grid.up)
    received = decode(down[0], N).positions
    assert len(received) < N / 2
    assert np.isin(decode(up[0], N).positions, received).all()


def test_a_shared_support_is_that_of_the_download_that_fits():
    strategy, grid = run(method="flasc-shared-mask", download_bytes=1500)
    assert not failures(strategy)
    assert max(lengths(grid.down)) <= 1500
    for current in range(3):
        support = decode(payloads(grid.down)[3 * current], N).kept
        for payload in payloads(grid.up)[3 * current : 3 * current + 3]:
            assert decode(payload, support).kept == support


def test_privacy_clips_before_it_fits():
    privacy = Privacy(
        clip_norm=0.5, noise_multiplier=1.0, population=3, delta=1e-3, clip="before"
    )
    strategy, grid = run(privacy=privacy, upload_bytes=900, values="float32")
    for payload in payloads(grid.up):
        assert 0.97 * 900 <= len(payload) <= 900
        assert np.linalg.norm(decode(payload, N).values) <= 0.5 * (1 + 1e-6)
    assert {row["largest_payload_up"] for row in strategy.state.history} == {None}


def test_many_limits_are_served_by_few_downloads():
    own = [{"download-bytes": 1000 + 37 * i} for i in range(40)]
    strategy, grid = run(own, rounds=1)
    assert not failures(strategy)
    distinct = {id(m.content) for m in grid.down if "arrays" in m.content}
    assert len(distinct) <= MOST_SERVED
    for node, limits in enumerate(own, 1):
        assert lengths(grid.down, node)[0] <= limits["download-bytes"]


def test_limits_that_are_nearly_equal_share_a_download():
    own = [{"download-bytes": 1_000_000 + i} for i in range(12)]
    _, grid = run(own, rounds=1)
    assert len({id(m.content) for m in grid.down if "arrays" in m.content}) == 1


def test_too_few_bytes_of_the_run_are_an_error_before_any_message():
    for settings in ({"upload_bytes": 20}, {"download_bytes": 60}):
        grid = RecordingGrid(client_app(), 2)
        key = next(iter(settings)).replace("_", "-")
        with pytest.raises(
            ValueError, match=rf"{key} must be >= \d+ for this adapter, got \d+"
        ):
            Flasc(**settings).start(grid, array_record(adapter()), 1)
        assert not grid.down


def test_the_bytes_are_enough_at_the_rank_of_most_clients():
    """A layout of a lower rank may be longer, deflated."""
    arrays = {
        f"layers.{layer}.{module}.lora_{factor}.weight": np.zeros(shape, np.float32)
        for layer in range(6)
        for module in ("q_proj", "v_proj")
        for factor, shape in (("A", (32, 64)), ("B", (64, 32)))
    }
    layout = Layout.of(arrays)
    enough = max(
        most_bytes_of_one_entry(
            truncation(layout, rank).layout, "int8", carry_layout=True
        )
        for rank in (32, 16)
    )
    ranks = ValidationRanks(loss_of=lambda arrays: 0.5, low_rank=16)
    for missing in (1, 0):
        strategy = Flasc(
            method="replication",
            validation=ranks,
            values="int8",
            download_bytes=enough - missing,
        )
        with pytest.raises(ValueError, match=f">= {enough}") if missing else nothing():
            strategy.server.begin(array_record(arrays))


@pytest.mark.parametrize("key", ["upload-bytes", "download-bytes"])
def test_a_device_with_too_few_bytes_takes_no_part_and_the_row_says_why(key):
    strategy, grid = run([{key: 20}, {}, {}], rounds=2)
    row = strategy.state.history[1]
    (waiting,) = row["waiting"]
    assert f"{key} must be >= " in waiting["reason"]
    assert waiting["reason"].endswith("for this adapter, got 20")
    assert row["replies"] == 2


@pytest.mark.parametrize("key", ["upload-bytes", "download-bytes"])
def test_a_device_that_sets_what_the_reason_names_takes_part(key):
    """Its bytes are rounded down to 7 bits: 137 would be 136, and refused again."""
    method = compose("flasc", quota="tensor")
    own = {key: 20}
    for _ in range(2):
        strategy, _ = run([own, {}, {}], rounds=1, method=method, values="float32")
        row = strategy.state.history[1]
        if row["replies"] == 3:
            break
        (waiting,) = row["waiting"]
        own = {key: int(re.findall(r">= (\d+) for this", waiting["reason"])[0])}
    assert row["replies"] == 3 and own[key] > 20
    if key == "download-bytes":
        assert own[key] > 128


def test_settings_that_do_not_fit_the_method_are_refused():
    with pytest.raises(ValueError, match="download-bytes must be 0 with method 'flo"):
        Flasc(method="flora", download_bytes=1000)
    with pytest.raises(ValueError, match="upload-bytes must be 0 with method 'flasc-"):
        Flasc(method="flasc-shared-mask", upload_bytes=1000)
    with pytest.raises(ValueError, match="upload-bytes must be an integer >= 0, got"):
        Flasc(upload_bytes=-1)


def test_the_log_has_the_bytes_beside_the_densities(caplog):
    with caplog.at_level("INFO", logger="flwr"):
        Flasc(upload_bytes=4000).summary()
    assert "Density in round 1: download (0.25) | upload (1)" in caplog.text
    assert "Most bytes of a payload: download (any) | upload (4000)" in caplog.text


def test_a_resumed_run_shares_the_bytes(tmp_path):
    settings = {"download_bytes": 1500, "upload_bytes": 700}
    whole, _ = run(**settings, rounds=4)
    run(**settings, rounds=2, on_checkpoint=Checkpoints(tmp_path, 1))
    resumed, _ = run(**settings, rounds=4, resume=read(tmp_path))
    np.testing.assert_array_equal(resumed.state.vector, whole.state.vector)
    with pytest.raises(CheckpointError, match="upload_bytes"):
        run(download_bytes=1500, upload_bytes=701, rounds=4, resume=read(tmp_path))


# The mod, against whatever a server sends.


def big_download():
    layout = Layout.of({"w.weight": np.zeros((100, 100), np.float32)})
    return download(1.0, layout), layout.size


def sends(control, app=nudge, **node_config):
    arrays, size = big_download()
    reply = ask(content(arrays, control), client_app(app), **node_config)
    payload = payload_of(reply.content["arrays"])
    return len(payload), decode(payload, size)
