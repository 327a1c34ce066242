"""What `peft-config` does not go with: settings of LoRA, and methods that need it."""

from __future__ import annotations

from typing import Any

from flasc_flwr.app.config.adapter import AdapterSettings
from flasc_flwr.core.aggregation import AGGREGATIONS
from flasc_flwr.core.layout import Role
from flasc_flwr.core.methods.method import Method, Tunes
from flasc_flwr.core.settings import settings_of

IDENTITY = "identity"
"""Entry of a message's config: what identifies the model that the server built."""

_OF_LORA = {
    "lora_rank": "the file has its own rank",
    "lora_alpha": "the file has its own scale",
    "use_rslora": "the file has its own scale",
    "use_dora": "the file names its own method",
    "lora_dropout": "the file has its own dropout",
    "lora_targets": "the file has target_modules, or they are those of 'auto'",
    "adapter": "a run with it begins at a new adapter",
}
"""Settings of a LoRA adapter, and why they must be left at their defaults."""

_NEEDS_FACTORS = ("frobenius",)
"""Rules that average, with weights that are computed from the products B A."""


def require_tuner(config: AdapterSettings, method: Method) -> None:
    """Check that a run with a PEFT config asks for nothing that only LoRA has.

    Raises
    ------
    ValueError
        If a setting or a part of the method needs the factors A and B.
    """
    if not config.peft_config:
        return
    declared = settings_of(config)
    for name, reason in _OF_LORA.items():
        default, given = declared[name].run_config_default, getattr(config, name)
        if given != default:
            raise ValueError(
                f"{declared[name].key} must be {_written(default)} with a peft-config: "
                f"{reason}, got {_written(given)}"
            )
    for wrong, advice in _beyond(method):
        raise ValueError(
            f"peft-config must be '' with {wrong}: a PEFT config has no factors A and "
            f"B, got {config.peft_config[:80]!r}{advice}"
        )


def _beyond(method: Method) -> list[tuple[str, str]]:
    """Return what of a method needs factors, each with what to do about it."""
    of_method = f"method {method.name!r}"
    frozen = any(len(each.roles) < len(Role) for each in method.trainable)
    averages = AGGREGATIONS[method.aggregation].averages
    averages = averages and method.aggregation not in _NEEDS_FACTORS
    aggregation = f"aggregation {method.aggregation!r}"
    wrong = {
        f"{of_method}, which has no adapter": method.tunes != Tunes.LORA,
        f"{of_method}, which draws A from a seed": method.init == "shared-seed",
        f"{of_method}, which trains A and B apart": frozen,
        f"tiers {method.tiers!r}, which are ranks": method.tiers == "rank",
        f"rank-assignment {method.rank_assignment!r}": method.rank_assignment != "own",
        f"rank-scale {method.rank_scale!r}": method.rank_scale != "common",
        "score 'product'": method.scoring.score == "product",
        "exact-residual": method.exact_residual,
        f"{aggregation}, which computes with B A": not averages,
    }
    advice = {aggregation: " (the averaging rules are zero-padded-updates and senders)"}
    return [
        (text, next((a for k, a in advice.items() if text.startswith(k)), ""))
        for text, there in wrong.items()
        if there
    ]


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
