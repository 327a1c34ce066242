"""Which modules of an architecture LoRA adapts, and which are trained fully."""

from __future__ import annotations

from logging import WARNING

from peft.utils.constants import (
    INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS,
)
from torch import nn
from transformers import PreTrainedModel

from flasc_flwr.app.training.attention import attention_names, linear_names, matches
from flasc_flwr.flower.compat import log

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


_MAMBA = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}
_NOT_OF_MAMBA = ("out_proj", "dt_proj", "lm_head")
"""Mamba reads the weights of these past any adapter; PEFT refuses the first."""


def targets_of(model: PreTrainedModel, wanted: str) -> str | list[str]:
    """Return the modules to adapt, as PEFT's ``target_modules``.

    Parameters
    ----------
    model : PreTrainedModel
        The backbone.
    wanted : str
        Ends of names separated by commas, such as ``query,attn.Wo``; ``all-linear``
        for PEFT's choice of all linear modules; or ``auto``: the usual names of the
        architecture as the installed transformers calls them, else the linear modules
        of attention, else ``all-linear``.

    Raises
    ------
    ValueError
        If a name is not that of a linear module (the message lists the possible ones),
        or there is none outside the head.
    """
    linear, kind = linear_names(model), model.config.model_type
    ends = {name.rpartition(".")[2] for name in linear}
    if wanted not in ("auto", ALL_LINEAR):
        names = [name.strip() for name in wanted.split(",")]
        if all(any(matches(one, name) for one in linear) for name in names):
            return names
        raise ValueError(
            f"lora-targets must name linear modules of this {kind!r} model "
            f"({', '.join(sorted(ends))}), got {wanted!r}"
        )
    for usual in _usual(kind):
        if wanted == "auto" and ends.issuperset(usual):
            return list(usual)
    inside = [
        name
        for name in linear_names(model, without=head_of(model, "auto"))
        if kind not in _MAMBA or not name.endswith(_NOT_OF_MAMBA)
    ]
    if not inside:
        raise ValueError(
            "model must have linear modules outside its head for LoRA, got a "
            f"{kind!r} model without any: set method to 'linear' or 'full'"
        )
    found = attention_names(model, inside) if wanted == "auto" else []
    if wanted == "auto" and not found and not any(map(_in_a_layer, inside)):
        # SqueezeBERT's layers are convolutions.
        log(
            WARNING,
            "The layers of this %r model have no linear modules: LoRA adapts only %s",
            kind,
            ", ".join(inside),
        )
    if kind in _MAMBA:
        return found or list(dict.fromkeys(n.rpartition(".")[2] for n in inside))
    return found or ALL_LINEAR


def _in_a_layer(name: str) -> bool:
    """Whether a module is in one of a list of layers, which have numbers."""
    return any(part.isdecimal() for part in name.split("."))


def _usual(kind: str) -> list[tuple[str, ...]]:
    """Return the usual names of an architecture, best first; may be empty."""
    if kind in _TARGETS:
        return _TARGETS[kind]
    usual = PEFT_TARGETS.get(kind)
    return [tuple(usual)] if usual else []


def head_of(model: PreTrainedModel, wanted: str) -> list[str]:
    """Return the names of the modules that are trained fully, by default the head.

    The head is every child with parameters except the backbone. The output layer of a
    language model, whatever its name, is left out: it often shares its weights with the
    backbone, and PEFT would train a copy.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    wanted : str
        Names separated by commas, ``auto``, or '' for none: of children of the model,
        or of its table of token embeddings, such as ``embed_tokens``.

    Returns
    -------
    list[str]
        Full names of modules.

    Raises
    ------
    ValueError
        If a name is not that of a module (the message lists the possible names), or is
        that of embeddings which share their weights with the output layer.
    """
    children = dict(model.named_children())
    embeddings = _embeddings(model)
    if wanted == "auto":
        shared = set(model.base_model.parameters())
        output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return [
            name
            for name, child in children.items()
            if child is not model.base_model
            and any(p not in shared for p in child.parameters())
            and not name.startswith("lm_head")
            and (output is None or all(m is not output for m in child.modules()))
        ]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in children and name not in embeddings:
            known = ", ".join([*children, *embeddings])
            raise ValueError(f"saved-modules must name some of {known}, got {name!r}")
    # PEFT compares the ends of names: "classifier" also selects "pre_classifier".
    found = [child for child in children if child.endswith(tuple(names))]
    found += [full for short, full in embeddings.items() if short in names]
    _require_untied(model, found, wanted)
    return found


def _embeddings(model: PreTrainedModel) -> dict[str, str]:
    """Return the full name of the table of token embeddings by its own name."""
    table = _table(model)
    full = next((name for name, each in model.named_modules() if each is table), "")
    return {full.rpartition(".")[2]: full} if "." in full else {}


def _table(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:  # a model for images may have none
        return None


def _require_untied(model: PreTrainedModel, names: list[str], wanted: str) -> None:
    """Refuse to train one of two modules that are one table of weights.

    PEFT would train a copy of it: the other keeps the old weights, so that the model
    reads other embeddings than it writes, and a merged model cannot be saved.
    """
    table, output = _table(model), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if table is None or output is None:
        return
    shared = set(table.parameters()) & set(output.parameters())
    chosen = (p for name in names for p in model.get_submodule(name).parameters())
    if not shared.isdisjoint(chosen):
        raise ValueError(
            "saved-modules must not name the output layer or the token embeddings of a "
            f"{model.config.model_type!r} model in which they share their weights (it "
            f"has tie_word_embeddings), got {wanted!r}: name modules in lora-targets "
            "instead"
        )
