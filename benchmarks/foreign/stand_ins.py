"""What apps download or send elsewhere, replaced before they are imported."""

import importlib.util
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import flwr.common.typing
from flwr.app import UserConfig


def install(dependencies: Iterable[str]) -> None:
    """Replace downloads and services by local ones. The app's files stay as they are.

    - ``datasets.load_dataset``, for an app that depends on datasets, reads local data
      (data.py), and with it ``flwr_datasets.FederatedDataset``: partitions are the
      app's own.
    - ``wandb``, a service, does nothing.
    - ``evaluate.load("accuracy")``, a download, counts here.
    - Quantized loading needs a GPU: models load unquantized.
    - A name that Flower has moved since the apps were written is at its old place, too.
    """
    if not hasattr(flwr.common.typing, "UserConfig"):
        flwr.common.typing.UserConfig = UserConfig
    if any("datasets" in name for name in dependencies):
        import datasets

        from foreign.data import load_dataset

        datasets.load_dataset = load_dataset
        datasets.disable_progress_bars()
    sys.modules["wandb"] = _module(
        "wandb", init=_nothing, log=_nothing, define_metric=_nothing
    )
    sys.modules["evaluate"] = _module("evaluate", load=Accuracy)


def install_unquantized() -> None:
    """Make transformers load models without bitsandbytes."""
    import transformers

    load = transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(
        name: str, quantization_config: Any = None, **given: Any
    ) -> Any:
        return load(name, **given)

    transformers.AutoModelForCausalLM.from_pretrained = from_pretrained
    transformers.BitsAndBytesConfig = _nothing


class Accuracy:
    """The accuracy of the evaluate library."""

    def __init__(self, name: str) -> None:
        if name != "accuracy":
            raise ValueError(f"name must be accuracy, got {name!r}")
        self._right: list[bool] = []

    def add_batch(self, *, predictions: Any, references: Any) -> None:
        self._right += (predictions == references).tolist()

    def compute(self) -> dict[str, float]:
        return {"accuracy": sum(self._right) / len(self._right)}


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _module(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    # Libraries look for it with importlib before they use it.
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    vars(module).update(members)
    return module
