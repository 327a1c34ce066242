"""What travels, what the app sees, and what the inner strategy sees."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import flasc_mod
from flasc_flwr.core.codec import decode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.parcel import DOWNLOAD, UPLOAD, is_parcel
from flasc_flwr.flower.wire import PAYLOAD, array_record, arrays_of, message_bytes
from tests.plug_in.plain import client_app, mixed, plainly, start, step

SPARSE = ("weight", "double", "half")
WHOLE = ("counter", "bias", "mask", "variance")


class Watching(FedAvg):
    """Keeps the replies that it is given."""

    def aggregate_train(self, server_round, replies):
        self.replies = [reply.content for reply in replies]
        return super().aggregate_train(server_round, self.messages(replies))

    def messages(self, replies):
        return replies


def seen_by_app(**settings):
    seen = []

    def train(arrays, client, current):
        seen.append(arrays)
        return step(arrays, client, current)

    inner = Watching()
    _, grid, result = start(client_app(train), inner, nodes=2, **settings)
    return seen, inner, grid, result


def flat(arrays):
    layout = Layout.of({name: mixed()[name] for name in SPARSE})
    return layout.flatten({name: arrays[name] for name in SPARSE})


def test_the_app_sees_its_arrays_masked_in_their_own_order_and_dtypes():
    seen, _, _, _ = seen_by_app(download_density=1 / 4, values="float32")
    for arrays in seen:
        assert list(arrays) == list(mixed())
        for name, array in mixed().items():
            assert arrays[name].dtype == array.dtype
            assert arrays[name].shape == array.shape
        for name in WHOLE:
            np.testing.assert_array_equal(arrays[name], mixed()[name])
        expected = top_k(flat(mixed()), 1 / 4).densify()
        np.testing.assert_array_equal(flat(arrays), expected)


def test_the_inner_strategy_sees_its_own_arrays_plus_the_top_k_of_the_update():
    """Not plus the trained arrays: what was masked is still there."""
    seen, inner, _, _ = seen_by_app(
        download_density=1 / 4, upload_density=1 / 5, values="float32"
    )
    for client, content in enumerate(inner.replies):
        node = int(content["metrics"]["loss"])
        received = seen[client]
        trained = step(received, node, 1)
        update = top_k(flat(trained) - flat(received), 1 / 5).densify()
        arrays = arrays_of(content["arrays"])
        assert list(arrays) == list(mixed())
        assert {n: a.dtype for n, a in arrays.items()} == {
            n: a.dtype for n, a in mixed().items()
        }
        moved = flat(arrays)
        np.testing.assert_allclose(moved, flat(mixed()) + update, rtol=1e-3, atol=1e-4)
        assert np.all(moved[update == 0] == flat(mixed())[update == 0])
        for name in WHOLE:
            np.testing.assert_array_equal(arrays[name], trained[name])


@pytest.mark.parametrize("values", ["float32", "bfloat16", "int8"])
def test_the_update_is_relative_to_the_rounded_download(values):
    """A client that does not train sends no update, however coarse the download."""
    app = client_app(lambda arrays, client, current: arrays)
    settings = {"download_density": 1 / 3, "upload_density": 1, "values": values}
    _, _, result = start(app, arrays=array_record(mixed()), **settings)
    for name in SPARSE:
        # Flower's own mean of equal arrays rounds a little.
        mean = result.arrays[name].numpy()
        np.testing.assert_allclose(
            mean, mixed()[name], rtol=2e-3 * (name == "half") + 1e-6
        )


def test_a_plain_download_gives_the_exact_start():
    seen, _, grid, _ = seen_by_app(
        download_density=1, upload_density=1 / 8, values="float32"
    )
    for name, array in mixed().items():
        np.testing.assert_array_equal(seen[0][name], array)
    assert not any(is_parcel(m.content["arrays"], DOWNLOAD) for m in grid.down)
    replies = [m for m in grid.up if "arrays" in m.content]
    assert replies
    assert all(is_parcel(m.content["arrays"], UPLOAD) for m in replies)


def test_a_plain_upload_is_taken_relative_to_the_masked_download():
    seen, inner, grid, _ = seen_by_app(
        download_density=1 / 4, upload_density=1, values="float32"
    )
    for client, content in enumerate(inner.replies):
        node = int(content["metrics"]["loss"])
        trained = step(seen[client], node, 1)
        for name, array in arrays_of(content["arrays"]).items():
            expected = trained[name]
            if name in SPARSE:
                change = trained[name] - seen[client][name]
                expected = (mixed()[name] + change).astype(array.dtype)
            np.testing.assert_allclose(array, expected, rtol=2e-3, atol=1e-6)


def test_a_float64_update_far_below_float32_arrives():
    base = ArrayRecord({"w": array_record({"w": np.ones((4, 4))})["w"]})
    app = client_app(lambda arrays, *_: {"w": arrays["w"] + 1e-12})
    settings = {"download_density": 1, "upload_density": 1 / 2, "values": "float32"}
    _, _, result = start(app, arrays=base, **settings)
    moved = result.arrays["w"].numpy() - 1
    assert moved.dtype == np.float64
    assert np.count_nonzero(moved) == 8
    np.testing.assert_allclose(moved[moved > 0], 1e-12, rtol=1e-3)


def test_integers_travel_exactly_and_are_averaged_as_flower_does():
    _, grid, result = start(rounds=3)
    plain = plainly(rounds=3)
    for name in ("counter", "mask"):
        expected = plain.arrays[name]
        assert result.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(result.arrays[name].numpy(), expected.numpy())
    sent = grid.down[0].content["arrays"]
    assert sorted(sent) == ["0/counter", "2/bias", "4/mask", "6/variance", PAYLOAD]


def test_equal_contents_are_encoded_once_and_shared():
    _, grid, _ = start()
    contents = {id(m.content["arrays"]) for m in grid.down[:4]}
    assert len(contents) == 1


def test_arrays_that_are_named_travel_whole():
    _, grid, _ = start(whole=["dou*", "counter"])
    keys = sorted(grid.down[0].content["arrays"])
    assert keys == ["0/counter", "3/double", "4/mask", PAYLOAD]


def test_a_record_without_floats_travels_as_it_is():
    record = array_record({"0": np.arange(50, dtype=np.uint8)})

    def grow(arrays, client, current):
        return {"0": np.concatenate([arrays["0"], arrays["0"]])}

    _, grid, result = start(client_app(grow), arrays=record)
    assert list(grid.down[0].content) == ["arrays", "config"]
    assert result.arrays["0"].shape == (100,)


class TwoRecords(FedAvg):
    """Sends a second record; takes the first one's mean."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        extra = array_record({"m": np.full((8, 8), 2, np.float32)})
        for message in messages:
            message.content["momentum"] = extra
        return messages

    def aggregate_train(self, server_round, replies):
        self.momenta = []
        replies = list(replies)
        for reply in replies:
            self.momenta.append(reply.content.pop("momentum")["m"].numpy())
            self.stats = reply.content.pop("stats")["s"].numpy()
        return super().aggregate_train(server_round, replies)


def test_an_app_may_use_up_what_it_received():
    app = ClientApp(mods=[flasc_mod])

    @app.train()
    def train(message, context):
        record = message.content["arrays"]
        # As Flower's ``to_numpy_ndarrays(keep_input=False)`` does to spare memory.
        taken = {name: record.pop(name) for name in list(record)}
        content = {
            "arrays": ArrayRecord(taken),
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    _, _, result = start(app, FedAvg(fraction_evaluate=0))
    for name in ("weight", "double"):
        np.testing.assert_array_equal(result.arrays[name].numpy(), mixed()[name])


class Hoarding(FedAvg):
    """Keeps its messages, and all records of the replies."""

    def configure_train(self, server_round, arrays, config, grid):
        self.messages = super().configure_train(server_round, arrays, config, grid)
        return self.messages

    def aggregate_train(self, server_round, replies):
        self.keys = {key for reply in replies for key in reply.content}
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(self, server_round, replies):
        self.evaluations = [reply.content["arrays"] for reply in replies]
        return None


def test_the_inner_strategys_own_messages_stay_plain():
    inner = Hoarding(fraction_evaluate=0)
    start(inner=inner)
    for message in inner.messages:
        assert list(message.content) == ["arrays", "config"]
        assert list(message.content["arrays"]) == list(mixed())
        # What the grid notes on a message is seen on both.
        assert message.metadata.message_id


def test_the_inner_strategy_sees_no_record_of_ours():
    inner = Hoarding(fraction_evaluate=0)
    start(client_app(lambda arrays, *_: {"other": arrays["weight"]}), inner)
    assert inner.keys == {"arrays", "metrics"}


def test_arrays_in_answers_to_evaluations_are_no_updates():
    app = client_app()
    evaluate = ClientApp(mods=[flasc_mod])

    @evaluate.evaluate()
    def answer(message, context):
        return Message(
            RecordDict({"arrays": message.content["arrays"]}), reply_to=message
        )

    def both(message, context):
        kind = message.metadata.message_type
        return (evaluate if kind == "evaluate" else app)(message, context)

    inner = Hoarding()
    _, _, result = start(both, inner, download_density=1 / 10, values="float32")
    received = top_k(flat(arrays_of(result.arrays)), 1 / 10).densify()
    for arrays in inner.evaluations:
        np.testing.assert_allclose(flat(arrays_of(arrays)), received, rtol=1e-3)


def test_several_records_travel_each_by_itself():
    app = ClientApp(mods=[flasc_mod])

    @app.train()
    def train(message, context):
        assert sorted(message.content) == ["arrays", "config", "momentum"]
        momentum = message.content["momentum"]["m"].numpy()
        content = RecordDict(
            {
                "arrays": message.content["arrays"],
                "momentum": array_record({"m": momentum + 1}),
                # The app's own: there is nothing that it could be compared with.
                "stats": array_record({"s": np.full((3, 3), 9, np.float32)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=message)

    inner = TwoRecords(fraction_evaluate=0)
    _, grid, _ = start(app, inner, upload_density=1 / 2, values="float32")
    assert is_parcel(grid.down[0].content["momentum"], DOWNLOAD)
    assert is_parcel(grid.up[0].content["momentum"], UPLOAD)
    assert not is_parcel(grid.up[0].content["stats"], UPLOAD)
    for momentum in inner.momenta:
        assert np.count_nonzero(momentum == 3) == 32
        assert np.count_nonzero(momentum == 2) == 32
    np.testing.assert_array_equal(inner.stats, np.full((3, 3), 9))


def test_an_app_may_answer_under_another_key():
    settings = {"upload_density": 1, "download_density": 1 / 2, "values": "bfloat16"}
    _, grid, renamed = start(client_app(reply_key="weights"), **settings)
    _, _, expected = start(client_app(), **settings)
    assert all(
        is_parcel(m.content["weights"], UPLOAD)
        for m in grid.up
        if "weights" in m.content
    )
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(renamed.arrays[name].numpy(), array.numpy())


def test_an_app_may_answer_in_another_order():
    def reordered(arrays, client, current):
        return dict(reversed(step(arrays, client, current).items()))

    _, _, result = start(client_app(reordered))
    _, _, expected = start(client_app())
    assert list(result.arrays) == list(mixed())
    for name, array in expected.arrays.items():
        assert array.data == result.arrays[name].data


def test_evaluation_messages_are_decoded_too():
    """The app sees what a client can receive, not the dense arrays."""
    _, grid, result = start(download_density=1 / 10, values="float32", rounds=1)
    evaluations = [m for m in grid.down if m.metadata.message_type == "evaluate"]
    assert evaluations
    assert all(list(m.content) == ["arrays", "config"] for m in evaluations)
    (metrics,) = result.evaluate_metrics_clientapp.values()
    masked = top_k(flat(arrays_of(result.arrays)), 1 / 10).densify().sum()
    whole = sum(float(result.arrays[n].numpy().sum()) for n in WHOLE)
    assert metrics["total"] == pytest.approx(masked + whole, rel=1e-3)


def ask(app, message):
    LocalGrid(app, 1)
    context = Context(0, 1, {"partition-id": 0}, state=RecordDict(), run_config={})
    return app(message, context)


def test_a_query_passes_unchanged():
    app = client_app()

    @app.query("state")
    def state(message, context):
        return Message(message.content, reply_to=message)

    LocalGrid(app, 1)
    content = RecordDict({"arrays": array_record(mixed())})
    before = {name: array.data for name, array in content["arrays"].items()}
    reply = ask(app, Message(content, 1, "query.state"))
    assert list(reply.content) == ["arrays"]
    assert {n: a.data for n, a in reply.content["arrays"].items()} == before


class Querying(FedAvg):
    """Sends queries where others send evaluations."""

    def configure_evaluate(self, server_round, arrays, config, grid):
        content = RecordDict({"arrays": arrays})
        return [Message(content, node, "query.state") for node in grid.get_node_ids()]

    def aggregate_evaluate(self, server_round, replies):
        self.answers = [reply.content for reply in replies]
        return None


def test_a_strategy_may_send_queries():
    app = client_app()

    @app.query("state")
    def state(message, context):
        return Message(message.content, reply_to=message)

    inner = Querying()
    _, _, result = start(app, inner)
    assert len(inner.answers) == 4
    for content in inner.answers:
        for name, array in result.arrays.items():
            assert content["arrays"][name].data == array.data


def test_a_reply_without_arrays_passes():
    def silent(arrays, client, current):
        return RecordDict({"metrics": MetricRecord({"num-examples": 1})})

    class Counting(FedAvg):
        def aggregate_train(self, server_round, replies):
            self.came = [list(reply.content) for reply in replies]
            return None, None

    inner = Counting()
    start(client_app(silent), inner)
    assert inner.came == [["metrics"]] * 4


def test_every_byte_is_counted():
    transport, grid, _ = start(rounds=2)
    totals = transport.traffic.totals()
    for way, messages in (("down", grid.down), ("up", grid.up)):
        payloads = [
            array.data
            for message in messages
            for record in message.content.array_records.values()
            for name, array in record.items()
            if name == PAYLOAD
        ]
        assert totals[f"payload_bytes_{way}"] == sum(map(len, payloads))
        assert totals[f"message_bytes_{way}"] == sum(message_bytes(messages))
    dense = sum(len(array.data) for array in array_record(mixed()).values())
    sent = transport.traffic.totals(1)
    assert sent["payload_bytes_up"] < dense
    # Four messages to train, four to evaluate, four replies to the former. Averaging
    # has turned the counter and the mask into floats of eight bytes.
    grown = dense + 3 * 8 - 3
    assert transport.traffic.plain_bytes(1) == 4 * (dense + grown + dense)


def test_the_payload_up_carries_the_fingerprint_of_the_one_down():
    _, grid, _ = start(values="float32", upload_density=1 / 7)
    layout = Layout.of({name: mixed()[name] for name in SPARSE})
    for reply in grid.up[:4]:
        payload = reply.content["arrays"][PAYLOAD].data
        sparse = decode(payload, layout.size, fingerprint=layout.fingerprint)
        assert sparse.kept == layout.size // 7
