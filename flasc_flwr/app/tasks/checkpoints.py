"""Loading pretrained models, and refusing weights that are not those of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging
from transformers.utils.peft_utils import find_adapter_config_file

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.class_order import name_classes
from flasc_flwr.app.tasks.gguf import converted, is_gguf
from flasc_flwr.app.tasks.sources import from_hub, model_path
from flasc_flwr.app.training.precision import kept_precision
from flasc_flwr.app.training.quantizing import not_quantized
from flasc_flwr.core.printable import printable, why
from flasc_flwr.flower.compat import log

_LAYER = re.compile(r"(^|\.)(layers?|h|blocks?)\.\d+\.")

_CLASSIFIER = "AutoModelForSequenceClassification"


def load_checkpoint(
    kind: str, config: RunConfig, classes: int | None = None, **settings: Any
) -> PreTrainedModel:
    """Load a pretrained model; what its checkpoint lacks is random, and is logged.

    A head for another number of classes is replaced by a new one.

    Parameters
    ----------
    kind : str
        Class of transformers, such as ``AutoModelForCausalLM``.
    config : RunConfig
        Which model.
    classes : int, optional
        How many classes its head has (default: it has none).
    **settings : Any
        Arguments of ``from_pretrained``.

    Raises
    ------
    ValueError
        If it cannot be loaded, is of the wrong kind, its checkpoint lacks a part of the
        backbone, or its head has the run's classes in another order.
    """
    path = require_folder(config)
    with _quiet():
        _refuse_adapter(path, config)
        model_config = _config(path, config, classes)
        auto = getattr(transformers, kind)
        if type(model_config) not in auto._model_mapping:
            other = " (or set head to 'mean')" if kind == _CLASSIFIER else ""
            raise ValueError(
                f"model must be one that transformers loads with {kind} for task "
                f"{config.task!r}{other}, got {config.model!r}, which is a "
                f"{model_config.model_type!r} model"
            )
        if bits := settings.get("quantization_config"):
            bits.llm_int8_skip_modules = not_quantized(auto, model_config)
        model, report = load(
            config,
            lambda: auto.from_pretrained(
                path,
                config=model_config,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **settings,
            ),
        )
    new_head = _check_weights(model, report, config)
    if classes:
        name_classes(model.config, classes, config, kept=not new_head)
    if is_gguf(source := model_path(config.model)):
        # Exported adapters name the file, and not where it is kept here.
        model.name_or_path = source
    return model  # type: ignore[no-any-return]


def require_folder(config: RunConfig) -> str:
    """Return what transformers loads as ``model``: an id, or a folder with a model.

    A GGUF file is converted to such a folder.

    Raises
    ------
    ValueError
        If it is a folder without a model's config, or a GGUF file cannot be read.
    """
    path = model_path(config.model)
    if is_gguf(path):
        # Dequantized weights are saved in no precision: float32 loses nothing.
        dtype = kept_precision(config) or torch.float32
        return str(load(config, lambda: converted(path, dtype)))
    if not Path(path).is_dir() or (Path(path) / "config.json").is_file():
        return path
    if (Path(path) / "adapter_config.json").is_file():
        raise _adapter_instead(config)
    inner = sorted(file.parent.name for file in Path(path).glob("*/config.json"))
    hint = f": set it to its folder {printable(inner[0], 80)!r}" if inner else ""
    raise ValueError(
        f"model must be a folder with a config.json, got {config.model!r}{hint}"
    )


def load(config: RunConfig, loading: Callable[[], Any]) -> Any:
    """Return what `loading` loads of the run's model.

    Raises
    ------
    ValueError
        If it fails in any way; the message names the model.
    """

    def attempt() -> Any:
        try:
            return loading()
        except (OSError, ValueError, ImportError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # Damaged files raise errors of many libraries.
            raise ValueError(why(error)) from error

    if not Path(model_path(config.model)).exists():
        return from_hub("model", config.model, attempt)
    try:
        return attempt()
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"model {config.model!r} could not be loaded: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return why(ValueError(str(error).strip().splitlines()[0] if str(error) else ""))


def _refuse_adapter(path: str, config: RunConfig) -> None:
    """Refuse a PEFT folder, with which transformers would load another model."""
    if load(config, lambda: find_adapter_config_file(path)) is not None:
        raise _adapter_instead(config)


def _adapter_instead(config: RunConfig) -> ValueError:
    return ValueError(
        f"model must be a whole model, got {config.model!r}, which is a PEFT adapter "
        "(it has an adapter_config.json): set adapter to it, and model to the model "
        "that it was trained on"
    )


def _config(path: str, config: RunConfig, classes: int | None) -> PretrainedConfig:
    counted = {} if classes is None else {"num_labels": classes}
    loaded: PretrainedConfig = load(
        config,
        lambda: AutoConfig.from_pretrained(path, trust_remote_code=False, **counted),
    )
    # The loss is read from the outputs by its name.
    loaded.return_dict = True
    return loaded


def _check_weights(
    model: PreTrainedModel, report: dict[str, Any], config: RunConfig
) -> bool:
    """Check that the backbone's weights are the checkpoint's.

    Returns
    -------
    bool
        Whether the head, or a part of it, is new; that is logged.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    missing = sorted(name for name in report["missing_keys"] if name in shapes)
    resized = {name: (theirs, ours) for name, theirs, ours in report["mismatched_keys"]}
    for name, (theirs, ours) in sorted(resized.items()):
        if _in_backbone(model, name):
            raise ValueError(
                f"model must have weights of the sizes in its config.json, got "
                f"{config.model!r}, where {name} has shape {tuple(theirs)} instead of "
                f"{tuple(ours)}"
            )
    absent = [name for name in missing if _in_backbone(model, name)]
    # A norm or a bias starts at its neutral value, and a pooler is a head to learn.
    needed = [n for n in absent if len(shapes[n]) > 1 and "pooler" not in n]
    if needed:
        raise ValueError(
            f"model must have all weights of a {model.config.model_type!r} backbone, "
            f"got {config.model!r} without {len(needed)} of them, such as {needed[0]}"
        )
    if config.task == "causal-lm":
        _require_output(model, missing, config)
    if absent and config.head == "stock":
        log(
            WARNING,
            "Model %r has no weights for %s: they start at random and stay frozen",
            config.model,
            ", ".join(absent),
        )
    if unused := sorted(report["unexpected_keys"]):
        log(
            WARNING if any(_LAYER.search(name) for name in unused) else INFO,
            "Model %r: %d weights of its checkpoint are not used, such as %s",
            config.model,
            len(unused),
            printable(unused[0], 120),
        )
    new = [n for n in (*missing, *sorted(resized)) if not _in_backbone(model, n)]
    if new:
        log(INFO, "Model %r gets a new head (%s)", config.model, ", ".join(new))
    return bool(new)


def _require_output(
    model: PreTrainedModel, missing: list[str], config: RunConfig
) -> None:
    """Refuse a language model whose output layer would be random, and frozen."""
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if output is None:
        return
    names = {
        name
        for name, parameter in model.named_parameters()
        if any(parameter is one for one in output.parameters())
    }
    if lacking := sorted(names.intersection(missing)):
        raise ValueError(
            f"model must have the output layer of a language model, got "
            f"{config.model!r} without {lacking[0]}"
        )


def _in_backbone(model: PreTrainedModel, name: str) -> bool:
    prefix = model.base_model_prefix
    return model.base_model is model or name.startswith(f"{prefix}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' report of weights out of the log: the checks replace it."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
