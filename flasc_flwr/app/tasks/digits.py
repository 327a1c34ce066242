"""The default task: handwritten digits, with nothing to download.

scikit-learn's 1,797 digits of 8 x 8 pixels, in three fixed parts with the same class
mix. A small vision transformer is pretrained on the public part, turned by 90 degrees.
The private part is split over the clients, and the test part is held out; both are
upright, so that there is something left to learn. The server validates on the public
part, upright.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.tasks.partition_rows import Partitions
from flasc_flwr.app.tasks.task import Task
from flasc_flwr.app.training.adapting import make_trainable
from flasc_flwr.app.training.device import move_to_device
from flasc_flwr.app.training.examples import Batch, Examples
from flasc_flwr.app.training.targets import head_of, targets_of

_PUBLIC, _TEST = 500, 360

_ATTENTION = (
    r".*\.attention\.(q_proj|k_proj|v_proj|o_proj"
    r"|attention\.query|attention\.key|attention\.value|output\.dense)"
)
"""All four projections of attention, under the names of transformers 5 and 4."""


def load(config: RunConfig) -> Task:
    """Build the digits task."""
    public, _, _ = parts()
    backbone = pretrained_backbone(public["pixel_values"], public["labels"])
    wanted, lora = config.lora_targets, config.compose().tunes.adapts
    model = make_trainable(
        backbone,
        config,
        target_modules=(
            targets_of(backbone, wanted) if lora and wanted != "auto" else _ATTENTION
        ),
        head=head_of(backbone, config.saved_modules),
    )
    move_to_device(model, config)
    return Task(config, model, DigitsData(config))


class DigitsData:
    """The private part for the clients, the other two for the server."""

    def __init__(self, config: RunConfig) -> None:
        public, private, test = parts()
        upright = torch.rot90(public["pixel_values"], -1, dims=(2, 3))
        self._private = Examples.of(private)
        self._partitions = Partitions(config, labels=private["labels"].tolist())
        self.validation = Examples.of(public | {"pixel_values": upright})
        self.test = Examples.of(test)

    def partition(self, partition_id: int, num_partitions: int) -> Examples:
        """Return a simulated client's training examples."""
        rows = self._partitions.rows(partition_id, num_partitions)
        return self._private.select(rows)

    def local_examples(self, path: str) -> Examples:
        """Raise an error: this task has only the digits of scikit-learn."""
        raise ValueError(
            f"data-path must not be set with task 'digits', got {path!r}: set "
            "partition-id and num-partitions"
        )


@lru_cache(maxsize=1)
def parts() -> tuple[Batch, Batch, Batch]:
    """Return the public, the private and the test part.

    Each has standardised ``pixel_values``, float32 of shape (n, 1, 8, 8), and
    ``labels``. The parts are the same for every seed.
    """
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 1, 8, 8)
    pixels = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)
    everything = np.arange(len(labels))
    rest, test = train_test_split(
        everything, test_size=_TEST, stratify=labels, random_state=0
    )
    private, public = train_test_split(
        rest, test_size=_PUBLIC, stratify=labels[rest], random_state=0
    )
    return (
        _examples(np.rot90(pixels[public], axes=(2, 3)), labels[public]),
        _examples(pixels[private], labels[private]),
        _examples(pixels[test], labels[test]),
    )


def _examples(pixels: Any, labels: Any) -> Batch:
    return {
        "pixel_values": torch.from_numpy(np.ascontiguousarray(pixels)),
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }
