"""The client of Flower's LLM examples: a model loaded for each message.

It trains with this project's own steps, on the same data, which it keeps: those
examples keep theirs as well.
"""

from functools import lru_cache

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.tasks.task import Data, Task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a new model's adapter from what was received."""
    config = RunConfig.parse(context.run_config)
    task = new_task(config)
    received = message.content["arrays"].to_torch_state_dict()
    set_peft_model_state_dict(task.model, received)
    settings = context.node_config
    partition = settings["partition-id"]
    examples = data_of(config).partition(partition, settings["num-partitions"])
    outcome = task.train(examples, seed=partition)
    content = RecordDict(
        {
            "arrays": ArrayRecord(get_peft_model_state_dict(task.model)),
            "metrics": MetricRecord(
                {"loss": outcome.loss, "num-examples": outcome.examples}
            ),
        }
    )
    return Message(content, reply_to=message)


def new_task(config: RunConfig) -> Task:
    """Build the task again, past the cache that this project has for it."""
    return load_task.__wrapped__(config)


@lru_cache(maxsize=1)
def data_of(config: RunConfig) -> Data:
    """Return the data, split and tokenised once per process."""
    return new_task(config).data
