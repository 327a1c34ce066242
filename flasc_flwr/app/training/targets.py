"""Which modules of an architecture LoRA adapts."""

from __future__ import annotations

from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS,
)
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_TARGETS: dict[str, list[tuple[str, ...]]] = {
    # As FLASC's code has them.
    "gpt2": [("c_attn", "c_proj", "c_fc")],
    # transformers 5 renamed the projections of ViT.
    "vit": [("query", "value"), ("q_proj", "v_proj")],
    # Byun & Lee: three square projections a layer, by their parameter count.
    "distilbert": [("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj")],
    "albert": [("query", "key", "value"), ("q_proj", "k_proj", "v_proj")],
    "bert": [("query", "value"), ("q_proj", "v_proj")],
    "roberta": [("query", "value"), ("q_proj", "v_proj")],
}


def targets_of(model: PreTrainedModel, wanted: str) -> list[str]:
    """Return the last names of the modules to adapt.

    Parameters
    ----------
    model : PreTrainedModel
        The backbone.
    wanted : str
        Names with commas between them, or ``auto`` for those that are usual for the
        architecture, as this version of transformers calls them.

    Raises
    ------
    ValueError
        If a name is none of a linear module, or nothing is known of the architecture;
        with the names that there are.
    """
    there = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    if wanted != "auto":
        candidates = [tuple(name.strip() for name in wanted.split(","))]
    else:
        kind = model.config.model_type
        usual = PEFT_TARGETS.get(kind)
        candidates = _TARGETS.get(kind) or ([tuple(usual)] if usual else [])
    for names in candidates:
        if there.issuperset(names):
            return list(names)
    raise ValueError(
        f"lora-targets is {wanted!r}, which names no modules of this "
        f"{model.config.model_type!r} model: allowed are {', '.join(sorted(there))}"
    )


def head_of(model: PreTrainedModel, wanted: str) -> list[str]:
    """Return the names of the modules that are trained whole: by default the head.

    That is whatever stands beside the backbone and has parameters. A head that shares
    its weights with the backbone (a language model's) is none.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    wanted : str
        Names with commas between them, ``auto``, or empty text for none.

    Raises
    ------
    ValueError
        If a name is none of a module; with those that there are.
    """
    children = dict(model.named_children())
    if wanted == "auto":
        shared = {p.data_ptr() for p in model.base_model.parameters()}
        return [
            name
            for name, child in children.items()
            if child is not model.base_model
            and any(p.data_ptr() not in shared for p in child.parameters())
            and not name.startswith("lm_head")
        ]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in children:
            raise ValueError(
                f"saved-modules is {wanted!r}, but the model has no module {name!r}: "
                f"allowed are {', '.join(children)}"
            )
    # PEFT goes by the ends of names: "classifier" is "pre_classifier", too.
    return [child for child in children if child.endswith(tuple(names))]
