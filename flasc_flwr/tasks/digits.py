"""The default task: handwritten digits, with nothing to download.

scikit-learn's 1,797 digits of 8 x 8 pixels, in three fixed parts of the same class
mix. The public part, turned by 90 degrees, pretrains a small vision transformer. The
private part is split over the clients, the test part is held out; both are shown
upright, so that the backbone has something left to learn. Upright, the public part is
the server's to validate with.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from flasc_flwr.config import RunConfig
from flasc_flwr.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.tasks.partitioning import partitioner, split
from flasc_flwr.tasks.task import Task
from flasc_flwr.training.local import Examples
from flasc_flwr.training.lora import prepare

_PUBLIC, _TEST = 500, 360


def load(config: RunConfig) -> Task:
    """Build the digits task."""
    public, private, test = parts()
    model = prepare(
        pretrained_backbone(public["pixel_values"], public["labels"]),
        config,
        # Attention projections under the names of transformers 5 and 4.
        target_modules=r".*\.attention\."
        r"(q_proj|k_proj|v_proj|o_proj"
        r"|attention\.query|attention\.key|attention\.value|output\.dense)",
        head=["classifier"],
    )

    def partition(partition_id: int, num_partitions: int) -> Examples:
        chosen = _partitions(config, num_partitions)[partition_id]
        return {name: tensor[chosen] for name, tensor in private.items()}

    upright = torch.rot90(public["pixel_values"], -1, dims=(2, 3))
    return Task(
        config=config,
        model=model,
        partition=partition,
        validation=public | {"pixel_values": upright},
        test=test,
    )


@lru_cache(maxsize=1)
def parts() -> tuple[dict[str, torch.Tensor], ...]:
    """Return the public, the private and the test part.

    Each has ``pixel_values``, float32 of shape (n, 1, 8, 8), standardised, and
    ``labels``. The split is the same in every run, whatever its seed.
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


def _examples(pixels: Any, labels: Any) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.from_numpy(np.ascontiguousarray(pixels)),
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }


@lru_cache(maxsize=1)
def _partitions(config: RunConfig, num_partitions: int) -> list[list[int]]:
    """Return the indices of each partition of the private part."""
    _, private, _ = parts()
    made = partitioner(
        config.partitioner,
        num_partitions=num_partitions,
        label="label",
        seed=config.seed,
        alpha=config.dirichlet_alpha,
        classes_per_partition=config.classes_per_partition,
        user=None,
    )
    labels = Dataset.from_dict({"label": private["labels"].tolist()})
    return split(labels, made, num_partitions)
