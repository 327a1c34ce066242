"""Tasks: a model and data to train it on, chosen by name."""

from flasc_flwr.tasks.task import Examples, Task, load_task

__all__ = ["Examples", "Task", "load_task"]
