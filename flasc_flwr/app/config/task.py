"""Settings of the task: what is learned, from which model and on which data."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.app.config.names import names
from flasc_flwr.core.ranges import choice, integer, number, switch, text
from flasc_flwr.core.settings import setting

TASKS = (
    "digits",
    "text-classification",
    "causal-lm",
    "instruction",
    "image-classification",
)
LANGUAGE_TASKS = ("causal-lm", "instruction")
"""Tasks that learn to write tokens, so that rows have no class each."""
HEADS = ("stock", "mean")
PARTITIONERS = ("dirichlet", "flasc-dirichlet", "iid", "pathological", "natural-id")

_PRETRAINED = "all tasks but `digits`"
_TEXT = "`text-classification`, `causal-lm`"
_TOKENS = "`text-classification`, `causal-lm`, `instruction`"
_CLASSES = "`text-classification`, `image-classification`"
_IMAGE = "`image-classification`"


def _written(value: bool | str) -> str:
    """Return a value as the run config has it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


_WITHOUT_CLASSES = ("iid", "natural-id")
"""Partitioners that do not split by class."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """The task and its data, as the run config gives them."""

    task: str = setting(
        "digits", choice(*TASKS), "what is learned (docs/tasks.md describes each)"
    )
    model: str = setting(
        "",
        text(),
        'id on the hub, a folder, a GGUF file, or "package:NAME/PATH"',
        used_by=_PRETRAINED,
    )
    dataset: str = setting(
        "",
        text(),
        "name on the hub, or the absolute path of a file or folder",
        used_by=_PRETRAINED,
    )
    dataset_config: str = setting(
        "", text(), 'configuration of it on the hub; "" is none', used_by=_PRETRAINED
    )
    train_split: str = setting(
        "train", text(), "rows that clients train on", used_by=_PRETRAINED
    )
    test_split: str = setting(
        "test", text(), "rows that the server tests on", used_by=_PRETRAINED
    )
    validation_fraction: float = setting(
        0.1, number("[0, 1)"), "fraction of the training rows kept for the server"
    )
    text_column: str = setting("text", text(), "name of the column", used_by=_TEXT)
    image_column: str = setting("image", text(), "name of the column", used_by=_IMAGE)
    label_column: str = setting("label", text(), "name of the column", used_by=_CLASSES)
    user_column: str = setting(
        "",
        text(),
        'column that says whose row it is; "" is none',
        used_by='partitioner = "natural-id"',
    )
    domain_column: str = setting(
        "",
        text(),
        "column that partitioners split by, and that the evaluation is also done for "
        'each value of; "" is none',
        used_by="`instruction`",
    )
    classes: int = setting(
        0,
        integer(0),
        "number of classes; 0 counts them in the training rows",
        used_by=_CLASSES,
    )
    class_names: str = setting(
        "",
        names(),
        'all classes in order, such as "cat,dog", whatever type the labels have; '
        "without names, integers are the classes",
        used_by=_CLASSES,
    )
    max_classes: int = setting(
        1000,
        integer(2),
        "most classes that may be counted in the training rows",
        unit="classes",
        used_by=_CLASSES,
    )
    multi_label: bool = setting(
        False, switch(), "rows have lists of classes", used_by=_IMAGE
    )
    max_length: int = setting(
        128,
        integer(1),
        "longer texts are truncated to this length",
        unit="tokens",
        used_by=_TOKENS,
    )
    augment: bool = setting(
        False, switch(), "flip and crop training images at random", used_by=_IMAGE
    )
    head: str = setting(
        "stock",
        choice(*HEADS),
        "the model's own head, or a linear layer on the mean token vector",
        used_by="`text-classification`",
    )
    partitioner: str = setting(
        "dirichlet",
        choice(*PARTITIONERS),
        "how the data is split over simulated clients: dirichlet is Flower's (sizes "
        "differ), flasc-dirichlet is FLASC's (nearly equal sizes), natural-id makes a "
        "client of each user",
    )
    classes_per_partition: int = setting(
        2,
        integer(1),
        "classes of each client",
        unit="classes",
        used_by='partitioner = "pathological"',
    )
    dirichlet_alpha: float = setting(
        1.0,
        number("(0, inf)"),
        "label skew between clients; smaller is more skewed",
        used_by="the two Dirichlet partitioners",
    )

    def require_task(self) -> None:
        """Check that the task has what is asked for, so that no wish is ignored.

        Raises
        ------
        ValueError
            If a setting changes what is learned, in other tasks than this one.
        """
        for key, value, usual, task in (
            ("multi-label", self.multi_label, False, "image-classification"),
            ("augment", self.augment, False, "image-classification"),
            ("head", self.head, "stock", "text-classification"),
            ("domain-column", self.domain_column, "", "instruction"),
        ):
            if value != usual and self.task != task:
                raise ValueError(
                    f"{key} must be {_written(usual)} with task {self.task!r}, since "
                    f"it is for task {task!r}, got {_written(value)}"
                )
        if self.task == "digits":
            for key, value in (("model", self.model), ("dataset", self.dataset)):
                if value:
                    raise ValueError(
                        f"{key} must be '' with task 'digits', which has its own model "
                        f"and data (set task to another one), got {value!r}"
                    )

    def require_partitioner(self) -> None:
        """Check that the partitioner fits the task, where clients share the data.

        Raises
        ------
        ValueError
            If it needs what no row has.
        """
        if self.partitioner == "natural-id" and not self.user_column:
            raise ValueError(
                "user-column must name a column with partitioner 'natural-id', got ''"
            )
        language = self.task in LANGUAGE_TASKS
        what = f"task {self.task!r}" if language else "multi-label rows"
        classes = not (language or self.multi_label) or self.domain_column
        if not classes and self.partitioner not in _WITHOUT_CLASSES:
            raise ValueError(
                f"partitioner must be {' or '.join(_WITHOUT_CLASSES)} with {what}, "
                f"which have no class each, got {self.partitioner!r}"
            )
