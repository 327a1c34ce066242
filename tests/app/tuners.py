"""Tasks with PEFT's other tuners, for tests."""

import json

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.task import load_task

NEED = {
    "C3A": {"block_size": 64},
    "VBLORA": {"vector_length": 64, "num_vectors": 16},
    "LN_TUNING": {"target_modules": ["layernorm_before", "layernorm_after"]},
    "BONE": {"r": 64},
}
"""Fields that a tuner needs for this model."""


def text_of(kind, **fields):
    return json.dumps({"peft_type": kind} | NEED.get(kind, {}) | fields)


def task_of(kind, fields=None, **settings):
    load_task.cache_clear()
    given = {"peft_config": text_of(kind, **(fields or {})), "max_steps": 4}
    given |= {"client_optimizer": "adamw", "client_learning_rate": 0.01} | settings
    return load_task(
        RunConfig.parse({k.replace("_", "-"): v for k, v in given.items()})
    )
