"""Bases of cores in messages: measured in a round, and sent to each device once."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.measured_bases import encode_bases
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.bases.device_bases import VERSION, version_of
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.wire import (
    BASES,
    CONTROL,
    MEASURE,
    array_record,
    arrays_of,
    payload_record,
)
from tests.flower.device import ask, content, vector
from tests.flower.fleet import Fleet

RANK = 4
SIDES = {"x.lora_core": (13, 6), "y.lora_core": (5, 17)}
ADAPTER = {name: np.zeros((RANK, RANK), np.float32) for name in SIDES} | {
    "classifier.weight": np.ones((2, 3), np.float32)
}
METHOD = compose("fed-sb", core_basis="gradient")


def factors(client, name, rank, scale=1.0):
    rng = np.random.default_rng([client, len(name), ord(name[0])])
    step = -np.sign(rng.normal(size=SIDES[name]))
    u, s, vt = np.linalg.svd(step, full_matrices=False)
    return scale * u[:, :rank] * s[:rank], vt[:rank]


def measured(client, arrays, scale=1.0):
    """Return the head as it was, and this client's factors, as the app sends them."""
    found = dict(arrays)
    for name in SIDES:
        module = name.removesuffix("core")
        rank = len(arrays[f"{module}A.weight"])
        b, a = factors(client, name, rank, scale)
        found |= {f"{module}B.weight": b, f"{module}A.weight": a}
    return {name: np.float32(array) for name, array in found.items()}


class Devices:
    """A fleet of devices, and what their apps saw: (round, client, bases or None)."""

    def __init__(self, count=3, wrong=(), **node_configs):
        self.seen, self.wrong = [], dict(wrong)
        app = ClientApp(mods=[flasc_mod])
        app.train()(self.train)
        app.evaluate()(self.evaluate)
        own = [node_configs.get(f"node{i}", {}) for i in range(1, count + 1)]
        self.fleet = Fleet(count, app=app, node_configs=own)

    def train(self, message, context):
        client = context.node_config["partition-id"]
        current = message.content["config"]["server-round"]
        records = message.content.array_records
        arrays = arrays_of(records["arrays"])
        bases = arrays_of(records[BASES]) if BASES in records else None
        if MEASURE in message.content["config"]:
            assert bases is None
            trained = measured(client, arrays, self.wrong.get((current, client), 1.0))
        else:
            trained = {name: array + client + 1 for name, array in arrays.items()}
        if self.wrong.get((current, client)) == "raises":
            raise ValueError("out of memory")
        self.seen.append((current, client, bases))
        reply = RecordDict(
            {
                "arrays": array_record(trained),
                "metrics": MetricRecord({"num-examples": 2 ** (client + 1)}),
            }
        )
        return Message(reply, reply_to=message)

    def evaluate(self, message, context):
        assert BASES in message.content.array_records
        metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def run(self, rounds, method=METHOD, **settings):
        strategy = Flasc(
            **{
                "method": method,
                "core_sides": SIDES,
                "fraction_train": 1.0,
                "min_available_nodes": len(list(self.fleet.get_node_ids())),
                **settings,
            }
        )
        strategy.start(
            grid=self.fleet, initial_arrays=array_record(ADAPTER), num_rounds=rounds
        )
        return strategy

    def in_round(self, current):
        return {client: bases for n, client, bases in self.seen if n == current}

    def had_bases(self):
        """Return (round, client) of each message that carried bases, of any kind."""
        return sorted(
            (int(m.metadata.group_id), m.metadata.dst_node_id - 1)
            for m in self.fleet.sent
            if BASES in m.content.array_records
        )


def same(bases, others):
    return bases.keys() == others.keys() and all(
        np.array_equal(array, others[name]) for name, array in bases.items()
    )


def test_a_cohort_measures_and_each_device_gets_the_mean_once():
    devices = Devices()
    run = devices.run(4, weighting="examples", fraction_evaluate=1.0)
    bases = run.state.bases
    for name, sides in SIDES.items():
        products = [np.matmul(*factors(k, name, RANK)) for k in range(3)]
        mean = np.average(products, axis=0, weights=[2, 4, 8])
        assert mean.shape == sides
        u, _, vt = np.linalg.svd(mean)
        module = name.removesuffix("core")
        b, a = bases[f"{module}B.weight"], bases[f"{module}A.weight"]
        np.testing.assert_allclose(np.abs(b.T @ u[:, :RANK]), np.eye(RANK), atol=1e-4)
        np.testing.assert_allclose(np.abs(a @ vt[:RANK].T), np.eye(RANK), atol=1e-4)
    for current in (2, 3, 4):
        seen = devices.in_round(current)
        assert len(seen) == 3 and all(same(b, bases) for b in seen.values())
    # The round that measures ends with an evaluation, which brings them.
    assert devices.had_bases() == [(1, 0), (1, 1), (1, 2)]
    layout = Layout.of(bases)
    payload = len(encode_bases(layout, layout.flatten(bases), "float32"))
    first, *others = (row["payload_bytes_down"] for row in run.state.history[1:])
    assert first - 3 * payload < min(others) <= max(others) < first - 2 * payload
    # Nothing was trained in the first round.
    steps = [row["kept_up"] for row in run.state.history[1:]]
    assert run.state.optimizer.step == 3 and all(steps)


def test_devices_of_a_lower_rank_measure_and_get_leading_parts():
    devices = Devices(node1={"lora-rank": 2}, node2={"lora-rank": 3})
    run = devices.run(3, values="bfloat16")
    for client, rank in enumerate((2, 3, RANK)):
        bases = devices.in_round(3)[client]
        for name, whole in run.state.bases.items():
            part = whole[:, :rank] if ".lora_B." in name else whole[:rank]
            np.testing.assert_array_equal(bases[name], part)
    assert run.state.history[1]["ranks"] == {"2": 1, "3": 1, "4": 1}
    assert devices.had_bases() == [(2, 0), (2, 1), (2, 2)]


def test_a_device_that_lost_its_bases_says_so_and_gets_them_again():
    devices = Devices()

    def forget(row):
        if row["round"] == 2:
            devices.fleet._contexts[1].state.clear()

    run = devices.run(5, on_round=forget)
    failures = {r["round"]: r["failures"] for r in run.state.history if r["failures"]}
    ((current, (failure,)),) = failures.items()
    assert current == 3 and failure["client"] == "0"
    assert failure["reason"] == (
        "the device lacks the bases of the run; the next message has them"
    )
    assert set(devices.in_round(3)) == {1, 2}  # its app was not called
    assert set(devices.in_round(4)) == {0, 1, 2}
    assert devices.had_bases() == [(2, 0), (2, 1), (2, 2), (4, 0)]


def test_a_device_whose_app_fails_is_sent_them_again():
    devices = Devices(wrong={(2, 1): "raises"})
    run = devices.run(3)
    assert [row["replies"] for row in run.state.history] == [0, 3, 2, 3]
    assert devices.had_bases() == [(2, 0), (2, 1), (2, 2), (3, 1)]


@pytest.mark.parametrize("scale", [3.0, np.nan])
def test_factors_beyond_a_share_are_rejected(scale):
    devices = Devices(wrong={(1, 2): scale})
    run = devices.run(2)
    (failure,) = run.state.history[1]["failures"]
    assert failure["client"] == "2"
    assert ("norm of U S must be <=" if scale == 3 else "finite") in failure["reason"]
    honest = Devices(2).run(2).state.bases
    assert same(run.state.bases, honest)


def test_too_few_measurements_are_repeated():
    devices = Devices(wrong={(1, 1): 3.0, (1, 2): 3.0})
    run = devices.run(3, guard=Guard(min_replies=2, max_norm=1e3))
    first, second, third = run.state.history[1:]
    assert first["skipped"] and not second["skipped"] and not third["skipped"]
    assert run.state.optimizer.step == 1
    assert all(b is not None for b in devices.in_round(3).values())


def test_nobody_evaluates_before_there_are_bases():
    devices = Devices(wrong={(1, client): 3.0 for client in range(3)})
    run = devices.run(2, fraction_evaluate=1.0)
    first, second = run.state.history[1:]
    assert first["skipped"] and not second["failures"]
    assert {f["reason"][:11] for f in first["failures"]} == {"norm of U S"}
    assert "clients_loss" not in first and second["clients_loss"] == 0


def test_the_bound_on_updates_is_not_one_on_bases():
    """An update of ones has a norm of 12, factors of signs of more."""
    run = Devices().run(2, guard=Guard(max_norm=50.0, norm_action="clip"))
    whole = Devices().run(2)
    assert same(run.state.bases, whole.state.bases)


def test_a_run_resumes_with_its_bases_and_sends_them_again():
    taken = {}

    def keep(checkpoint):
        taken[checkpoint.round] = checkpoint.to_bytes()

    whole = Devices().run(4, on_checkpoint=keep)
    for after in (1, 2):
        devices = Devices()
        resume = Checkpoint.from_bytes(taken[after])
        resumed = devices.run(4, resume=resume)
        assert same(resumed.state.bases, whole.state.bases)
        np.testing.assert_array_equal(resumed.state.vector, whole.state.vector)
        assert [n for n, _ in devices.had_bases()] == [after + 1] * 3
    # The same devices still hold them, and say so.
    devices.run(4, resume=Checkpoint.from_bytes(taken[2]))
    assert [n for n, _ in devices.had_bases()] == [3] * 3


def test_bases_survive_a_restart_in_a_memory_folder(tmp_path):
    own = {"memory-folder": str(tmp_path)}
    devices = Devices(node1=own)

    def restart(row):
        if row["round"] == 2:
            devices.fleet._contexts[1].state.clear()

    run = devices.run(4, on_round=restart)
    assert not any(row["failures"] for row in run.state.history)
    assert len(devices.had_bases()) == 3


def test_devices_and_runs_that_limit_bytes_are_refused():
    devices = Devices(node2={"upload-bytes": 900}, node3={"download-bytes": 900})
    run = devices.run(2, min_available_nodes=1, min_train_nodes=1)
    waiting = {w["node"]: w["reason"] for w in run.state.history[1]["waiting"]}
    assert set(waiting) == {2, 3}
    assert waiting[2].startswith("upload-bytes must be 0 with core-basis 'gradient'")
    assert waiting[3].startswith("download-bytes must be 0 with core-basis 'gradient'")
    for settings, said in (
        ({"upload_bytes": 900}, "upload-bytes must be 0 with core-basis 'gradient'"),
        ({"download_bytes": 900}, "download-bytes must be 0 with core-basis 'grad"),
        ({"error_feedback": "up"}, "error-feedback must be 'none' with core-basis"),
        ({"core_sides": None}, "needs core_sides"),
    ):
        with pytest.raises(ValueError, match=said):
            Devices().run(2, **settings)
    with pytest.raises(ValueError, match="core-basis must be 'seed' or 'weights' with"):
        compose("flasc", core_basis="gradient")


def bases_payload(values=None, size=5):
    layout = Layout.of({"x.lora_A.weight": np.zeros(size, np.float32)})
    dense = SparseVector.of_dense(vector(size) if values is None else values)
    return encode(dense, layout=layout, carry_layout=True)


def needs(payload, version=None, record=True):
    control = ConfigRecord(dict(content()[CONTROL]))
    control[VERSION] = version_of(payload) if version is None else version
    more = {BASES: payload_record(payload)} if record else {}
    return content(control=control, **more)


def test_what_a_server_sends_is_checked():
    payload = bases_payload()
    for message, said in (
        (needs(payload, b"12345678"), "bases are damaged"),
        (needs(payload, b"1234"), "bases-version must be 8 bytes"),
        (needs(payload, "12345678"), "bases-version must be 8 bytes"),
        (needs(payload[:-3]), "checksum does not match"),
        (needs(payload) | {BASES: array_record({"x": np.zeros(3)})}, "one payload"),
    ):
        with pytest.raises(ValueError, match=said):
            ask(message)
    with pytest.raises(ValueError, match="max-entries"):
        ask(needs(bases_payload(size=600)), **{"max-entries": 500})
    with pytest.raises(ValueError, match="lora-rank"):
        ask(needs(payload), **{"lora-rank": 4})


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_device_without_bases_does_not_call_its_app(kind):
    reply = ask(needs(bases_payload(), record=False), kind=kind)
    assert not reply.content.array_records
    assert dict(reply.content[CONTROL]) == {"bases-held": b""}
