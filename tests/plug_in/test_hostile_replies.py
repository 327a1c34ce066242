"""One client of six replies anything at all: the inner strategy is not affected.

150 generated replies for each strategy, and with ``-m exhaustive`` another 1,000.
"""

import random
from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from flasc_flwr import SparseTransport
from flasc_flwr.core.codec import PayloadError
from flasc_flwr.flower.compat import set_metadata
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import UPLOAD
from flasc_flwr.flower.transport.upload_parcel import open_upload
from flasc_flwr.flower.wire import PAYLOAD, array_record
from tests.hostile import copied
from tests.plug_in.numpy_app import MASKS, NotingFedAvg, apart, client_app, mixed
from tests.plug_in.numpy_app import SPARSE as NAMES
from tests.plug_in.patchy import SPARSE as PATCHY
from tests.plug_in.patchy import PatchyGrid, drift, start_arrays
from tests.plug_in.test_own_loop import EarlyPulling
from tests.replaying import (
    BAD,
    CLIENTS,
    Lines,
    Replaying,
    attack,
    exhaustive,
    recorded,
)

# In the dtype that every strategy keeps, so that replies fit all rounds.
ARRAYS = {name: np.asarray(array, np.float64) for name, array in mixed().items()}

STRATEGIES = {"FedAvg": FedAvg, "FedAdam": FedAdam, "FedMedian": FedMedian}
SPARSE = {"upload_density": 1 / 2, "download_density": 1 / 2, **MASKS}
LOSSLESS = {"upload_density": 1, "download_density": 1, "values": "float32"}


def start(name, settings, grid):
    """Run two rounds; return the result and the log."""
    random.seed(0)
    transport = SparseTransport(STRATEGIES[name](), sparse=NAMES, **settings)
    with Lines() as lines:
        result = transport.start(grid, array_record(ARRAYS), 2)
    return result, lines


CASES = {
    **{name: (name, SPARSE) for name in STRATEGIES},
    "FedAvg, lossless": ("FedAvg", LOSSLESS),
}
HONEST = {
    case: recorded(client_app(), lambda grid, how=how: start(*how, grid))
    for case, how in CASES.items()
}
WITHOUT = {
    (case, kind): start(*how, Replaying(HONEST[case], {kind: Error(1, "away")}))[0]
    for case, how in CASES.items()
    for kind in ("train", "evaluate")
}


def data_of(result):
    return {name: array.data for name, array in result.arrays.items()}


def check(case, kind, reply):
    """Run two rounds in which the client sends `reply`; check that all is as it was."""
    grid = Replaying(HONEST[case], {kind: reply})
    result, lines = start(*CASES[case], grid)
    without = WITHOUT[case, kind]
    said = f"aggregate_{kind}: Received {CLIENTS - 1} results and 1 failures"
    rejected = lines.count(said)
    if rejected == 2 or kind == "evaluate":
        assert data_of(result) == data_of(without)
    if rejected == 2:
        assert result.train_metrics_clientapp == without.train_metrics_clientapp
        assert result.evaluate_metrics_clientapp == without.evaluate_metrics_clientapp
    outside = [x for x in lines if "Rejected" in x or "Received error" in x]
    assert len(outside) >= rejected
    assert all(line.strip().isprintable() and len(line) < 500 for line in outside)
    return rejected


@pytest.mark.parametrize("number", [150, exhaustive])
@pytest.mark.parametrize(
    ("case", "kind"), [*((case, "train") for case in CASES), ("FedAvg", "evaluate")]
)
def test_any_reply_of_one_client_leaves_the_others_as_they_are(case, kind, number):
    attack(partial(check, case, kind), HONEST[case][BAD, kind], number)


def test_the_replies_of_these_tests_are_valid_without_a_change():
    for case, how in CASES.items():
        result, lines = start(*how, Replaying(HONEST[case]))
        said = f"aggregate_train: Received {CLIENTS} results and 0 failures"
        assert lines.count(said) == 2
        assert data_of(result) != data_of(WITHOUT[case, "train"])


def extra_array(content):
    content["arrays"]["1" * 5000 + "/w"] = Array("uint8", (1,), "x", b"x")


def no_payload(content):
    del content["arrays"][PAYLOAD]


def payload_of_another_type(content):
    payload = content["arrays"][PAYLOAD].data
    content["arrays"][PAYLOAD] = Array("uint8", (1,), UPLOAD + "\n", payload)


def another_bias(content):
    (key,) = [k for k in content["arrays"] if k.endswith("/bias")]
    content["arrays"][key] = array_record({"a": ARRAYS["weight"]})["a"]


def not_a_number(content):
    (key,) = [k for k in content["arrays"] if k.endswith("/bias")]
    nan = ARRAYS["bias"] * float("nan")
    content["arrays"][key] = array_record({"a": nan})["a"]


def another_key(content):
    content["theirs"] = content.pop("metrics")


def another_name(content):
    content["metrics"]["mine"] = 1.0


def a_list(content):
    content["metrics"]["loss"] = [1.0, 2.0]


def another_record(content):
    content["more"] = ArrayRecord()


def negative_examples(content):
    content["metrics"]["num-examples"] = -5


def examples_that_are_not_a_number(content):
    content["metrics"]["num-examples"] = float("nan")


def endless_examples(content):
    content["metrics"]["num-examples"] = 1e308


def two_metric_records(content):
    content["more"] = MetricRecord({"num-examples": 1})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (extra_array, "array '1111"),
        (no_payload, "did not go through flasc_mod"),
        (payload_of_another_type, "did not go through flasc_mod"),
        (another_bias, "'bias' is missing, added or of another kind than in most"),
        (not_a_number, "array 'bias' must hold finite numbers"),
        (another_key, "its metric 'loss' is missing"),
        (another_name, "its metric 'mine' is missing, added"),
        (a_list, "its metric 'loss' is missing, added or of another kind"),
        (another_record, "did not go through flasc_mod|its record of arrays"),
        (negative_examples, "'num-examples' must be a number from 0 to 2^53, got -5"),
        (examples_that_are_not_a_number, "got nan"),
        (endless_examples, "got 1e+308"),
        (two_metric_records, "its metric 'num-examples' is missing, added"),
    ],
)
@pytest.mark.parametrize("case", list(STRATEGIES))
def test_row_4_a_reply_unlike_the_others_is_rejected_and_named(case, change, reason):
    content = copied(HONEST[case][BAD, "train"])
    content["arrays"] = apart(content["arrays"])
    change(content)
    assert check(case, "train", RecordDict(dict(content))) == 2
    grid = Replaying(HONEST[case], {"train": content})
    _, lines = start(*CASES[case], grid)
    rejected = [line for line in lines if line.startswith("Rejected the reply of")]
    assert len(rejected) == 2
    assert all(any(r in line for r in reason.split("|")) for line in rejected)


def test_row_4_an_array_key_of_5000_digits_is_no_index():
    content = copied(HONEST["FedAvg"][BAD, "train"])
    extra_array(content)
    form = Form.of(array_record(ARRAYS), range(len(ARRAYS)))
    with pytest.raises(PayloadError, match="has no index before its name") as raised:
        open_upload(content["arrays"], form)
    assert len(str(raised.value)) < 200


def test_row_4_under_a_strategy_of_the_users_own():
    """Its code reads what SparseTransport hands it, which is what could be read."""
    random.seed(0)
    content = copied(HONEST["FedAvg"][BAD, "train"])
    extra_array(content)
    grid = Replaying(HONEST["FedAvg"], {"train": content})
    inner = NotingFedAvg()
    transport = SparseTransport(inner, sparse=NAMES, **SPARSE)
    transport.start(grid, array_record(ARRAYS), 1)
    reasons = dict(inner.outcomes)
    assert "has no index before its name" in reasons.pop(BAD + 1)
    assert set(reasons.values()) == {""}


def test_row_4_the_metrics_of_an_evaluation_unlike_the_others():
    content = copied(HONEST["FedAvg"][BAD, "evaluate"])
    content["metrics"]["total"] = [1.0]
    assert check("FedAvg", "evaluate", content) == 2


class Forging(PatchyGrid):
    """Node 3 writes into its replies who sends them, or what they answer."""

    def __init__(self, app, **fields):
        super().__init__(app, 3)
        self.fields = fields

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            if reply.metadata.src_node_id == 3:
                for name, value in self.fields.items():
                    set_metadata(reply, name, value)
        return replies


@pytest.mark.parametrize("kind", [FedAvg, EarlyPulling])
@pytest.mark.parametrize(
    "fields", [{"src_node_id": 1}, {"reply_to_message_id": "of another message"}]
)
def test_a_reply_that_names_another_sender_or_message_counts_for_nobody(kind, fields):
    """Nor is what the named node remembers confirmed, or its reference changed."""
    grid = Forging(client_app(drift), **fields)
    settings = {"fraction_evaluate": 0, "min_train_nodes": 3, "min_available_nodes": 3}
    transport = SparseTransport(kind(**settings), **PATCHY)
    with Lines() as lines:
        result = transport.start(grid, array_record(start_arrays()), 2)
    without = {(3, n): "reply lost" for n in (1, 2)}
    other = PatchyGrid(client_app(drift), 3, without)
    transport = SparseTransport(kind(**settings), **PATCHY)
    expected = transport.start(other, array_record(start_arrays()), 2)
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(result.arrays[name].numpy(), array.numpy())
    for node in (1, 2):
        mine, same = grid.memory(node), other.memory(node)
        np.testing.assert_array_equal(mine.residual, same.residual)
        assert mine.reference.version == same.reference.version
    said = "Rejected the reply of node 3: " if "src_node_id" in fields else "Ignored a "
    assert sum(line.startswith(said) for line in lines) == 2
