"""Which modules of an architecture LoRA adapts."""

from __future__ import annotations

from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS,
)
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_TARGETS: dict[str, list[tuple[str, ...]]] = {
    # As in FLASC's code.
    "gpt2": [("c_attn", "c_proj", "c_fc")],
    # transformers 5 renamed the projections of ViT.
    "vit": [("query", "value"), ("q_proj", "v_proj")],
    # Byun & Lee: three square projections per layer, by their parameter count.
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
        Names separated by commas, or ``auto`` for the usual ones of the architecture,
        as the installed transformers calls them.

    Raises
    ------
    ValueError
        If a name is not that of a linear module, or the architecture is unknown. The
        message lists the possible names.
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
        "lora-targets must name linear modules of this "
        f"{model.config.model_type!r} model ({', '.join(sorted(there))}), got "
        f"{wanted!r}"
    )


def head_of(model: PreTrainedModel, wanted: str) -> list[str]:
    """Return the names of the modules that are trained fully, by default the head.

    The head is every child with parameters except the backbone. One that shares its
    weights with the backbone, as in language models, is left out.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    wanted : str
        Names separated by commas, ``auto``, or '' for none.

    Raises
    ------
    ValueError
        If a name is not that of a module. The message lists the possible names.
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
                f"saved-modules must name some of {', '.join(children)}, got {name!r}"
            )
    # PEFT compares the ends of names: "classifier" also selects "pre_classifier".
    return [child for child in children if child.endswith(tuple(names))]
