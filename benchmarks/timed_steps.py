"""Records how long a client computes; the benchmark copies it into the app."""

import json
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from flasc_flwr.app.tasks.task import Task


def _timed(step: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(step)
    def timed(task: Task, *arguments: Any, **settings: Any) -> Any:
        began = time.perf_counter()
        result = step(task, *arguments, **settings)
        seconds = time.perf_counter() - began
        with (Path(task.config.output_dir) / "steps.jsonl").open("a") as file:
            file.write(json.dumps(seconds) + "\n")
        return result

    return timed


Task.load_adapter = _timed(Task.load_adapter)
Task.train = _timed(Task.train)
