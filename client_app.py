"""The ClientApp: trains and evaluates received adapters on this node's data."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr import flasc_mod, trainable_entries
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.node import (
    OWN_DATA,
    check_node_config,
    partition_of,
    private_texts,
)
from flasc_flwr.app.config.tuner import IDENTITY
from flasc_flwr.flower.app_errors import app_errors
from flasc_flwr.flower.clients.introduced import PARTITIONS
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.privacy.local_dp import local_dp
from flasc_flwr.flower.wire import (
    BASES,
    CONTROL,
    INTRODUCE,
    MEASURE,
    MERGED,
    array_record,
    arrays_of,
    views_of,
)

if TYPE_CHECKING:
    from flasc_flwr.app.tasks import Task
    from flasc_flwr.app.training.examples import Examples
    from flasc_flwr.app.training.local import Outcome


def known_settings(
    message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Refuse to take part with a key in ``--node-config`` that nobody reads."""
    settings = context.node_config
    check_node_config(settings)
    introduces = INTRODUCE in records_of(message.content, ConfigRecord).get(CONTROL, {})
    reply = call_next(message, context)
    if introduces and OWN_DATA not in settings and PARTITIONS in settings:
        reply.content[CONTROL][PARTITIONS] = settings[PARTITIONS]
    return reply


app = ClientApp(mods=[known_settings, flasc_mod, local_dp])

# torch and the task are imported inside functions, so that a device can answer the
# server's first message without importing torch.


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received adapter on this node's examples."""
    with app_errors("flasc_flwr", partial(private_texts, context.node_config)):
        return _train(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received adapter on this node's examples."""
    with app_errors("flasc_flwr", partial(private_texts, context.node_config)):
        return _evaluate(message, context)


def _train(message: Message, context: Context) -> Message:
    from flasc_flwr.app.training.lora import adapter_views

    config, task, examples = _loaded(message, context)
    current = int(message.content["config"]["server-round"])
    sequence = np.random.SeedSequence([config.seed, current, _client_number(context)])
    seed = int(sequence.generate_state(1)[0])
    if MEASURE in message.content["config"]:
        received = views_of(message.content["arrays"])
        measured, outcome = task.measure_bases(received, examples, seed=seed)
        return _trained(message, outcome, len(examples), measured)
    _load_adapter(message, config, task)
    outcome = task.train(
        examples,
        seed=seed,
        current=current,
        trainable=trainable_entries(),
    )
    return _trained(message, outcome, len(examples), adapter_views(task.model))


def _trained(
    message: Message, outcome: "Outcome", count: int, arrays: "Mapping[str, Any]"
) -> Message:
    metrics = {
        "num-examples": count,
        "steps": outcome.steps,
        "loss": outcome.loss,
        "accuracy": outcome.accuracy,
    }
    return _reply(message, metrics, RecordDict({"arrays": array_record(arrays)}))


def _evaluate(message: Message, context: Context) -> Message:
    config, task, examples = _loaded(message, context)
    _load_adapter(message, config, task)
    outcome = task.evaluate(examples)
    metrics = {
        "num-examples": outcome.examples,
        "loss": outcome.loss,
        "accuracy": outcome.accuracy,
    }
    return _reply(message, metrics, RecordDict())


def _loaded(message: Message, context: Context) -> "tuple[RunConfig, Task, Examples]":
    """Load the task and this node's examples."""
    config = RunConfig.parse(context.run_config)
    task = _alike(message, config)
    path = context.node_config.get(OWN_DATA)
    if path is not None:
        examples = task.data.local_examples(str(path))
    else:
        examples = task.data.partition(*partition_of(context.node_config))
    return config, task, examples


def _load_adapter(message: Message, config: RunConfig, task: "Task") -> None:
    """Load the received adapter, with what the message has beside it."""
    from flasc_flwr.app.training.gradient_bases import require_bases

    records = records_of(message.content, ArrayRecord)
    merged = arrays_of(records[MERGED]) if MERGED in records else {}
    bases = views_of(records[BASES]) if BASES in records else {}
    require_bases(bases, config)
    task.load_adapter(views_of(records["arrays"]), merged, bases)


def _alike(message: Message, config: RunConfig) -> "Task":
    """Load the task; where it matters, with a model that starts as the server's."""
    from flasc_flwr.app.optional import without

    with without("scipy", "sklearn"):
        from flasc_flwr.app.tasks import load_task
    from flasc_flwr.app.training.identity import needs_identity, require_alike
    from flasc_flwr.app.training.tuners.build import require_same

    sent = message.content["config"].get(IDENTITY)
    if config.peft_config:
        require_same(config, sent)
    task = load_task(config)
    if needs_identity(config):
        require_alike(task.model, config, sent)
    return task


def _client_number(context: Context) -> int:
    """Return a number that identifies this node, if possible the same in every run."""
    partition = context.node_config.get("partition-id")
    return partition if isinstance(partition, int) else context.node_id


def _reply(
    message: Message, metrics: Mapping[str, int | float], content: RecordDict
) -> Message:
    content["metrics"] = MetricRecord(dict(metrics))
    return Message(content, reply_to=message)
