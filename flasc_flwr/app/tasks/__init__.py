"""Tasks: a model and data to train it on, chosen by name."""

from flasc_flwr.app.tasks.task import Task, load_task

__all__ = ["Task", "load_task"]
