"""A run's result as one model, which transformers loads without PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import GenerationConfig

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.runs.saved_adapter import trained_task
from flasc_flwr.app.tasks.image_inputs import save_preprocessor
from flasc_flwr.app.tasks.instruction.chat_template import ChatTemplate
from flasc_flwr.app.tasks.instruction.chat_tokens import ends
from flasc_flwr.app.tasks.tokenizer import load_tokenizer
from flasc_flwr.app.training.card import describe
from flasc_flwr.app.training.heads import MeanPooledClassifier
from flasc_flwr.app.training.merging import shared

_WHOLE = {
    "quantize": "none",
    "backbone-precision": "float32",
    "device": "cpu",
    "evaluate-generate": 0,
}
"""Settings with which products are added to the weights without rounding them."""


def save_merged(adapter: Path, to: Path) -> None:
    """Add an adapter to its backbone, and save the model with its tokenizer.

    The weights are float32. A chat model's folder has the chat template of the run, and
    a generation config with what ends an answer.

    Parameters
    ----------
    adapter : Path
        Folder of an adapter in a run's folder.
    to : Path
        The folder to write.

    Raises
    ------
    ValueError
        If transformers has no class for the model, or PEFT cannot merge the adapter.
    """
    task = trained_task(adapter, _WHOLE)
    config, model = task.config, task.model
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(inner, MeanPooledClassifier):
        raise ValueError(
            "--merged must not be given for a run with head = 'mean', which is not a "
            "model of transformers: export its adapter"
        )
    if isinstance(model, PeftModel):
        inner = merged_into(model)
    inner.float()
    if config.task == "instruction":
        _as_chat_model(inner, config, to)
    elif config.task in ("causal-lm", "text-classification"):
        load_tokenizer(config).save_pretrained(to)
    elif config.model:
        save_preprocessor(config, to)
    inner.save_pretrained(to)
    describe(inner, to)


def merged_into(model: PeftModel) -> Any:
    """Return the backbone with the active adapter, and its head, as its own weights.

    Raises
    ------
    ValueError
        If PEFT cannot merge such an adapter, or would change more than it adapts.
    """
    if name := shared(model):
        raise ValueError(
            f"--merged must not be given for a run that adapts {name!r}, whose weights "
            "another module shares, as with tie_word_embeddings: export its adapter"
        )
    kind = PeftType(model.peft_config[model.active_adapter].peft_type)
    refusal = (
        f"--merged must not be given for a run with a tuner of type {kind.value}, "
        "which PEFT does not merge: export its adapter"
    )
    try:
        inner = model.merge_and_unload(adapter_names=[model.active_adapter])
    except NotImplementedError as error:
        raise ValueError(refusal) from error
    # With some tuners PEFT forgets the head: transformers would draw a new one.
    left = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    if any(isinstance(module, left) for module in inner.modules()):
        raise ValueError(refusal)
    return inner


def _as_chat_model(model: Any, config: RunConfig, to: Path) -> None:
    tokenizer = load_tokenizer(config)
    chat = ChatTemplate.of(tokenizer, config)
    tokenizer.chat_template = chat.text
    tokenizer.save_pretrained(to)
    model.config.get_text_config().use_cache = True
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=ends(chat), pad_token_id=tokenizer.pad_token_id
    )
