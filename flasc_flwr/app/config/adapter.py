"""Settings of the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from flasc_flwr.core.methods.budget import RANK
from flasc_flwr.core.methods.method import Method, Tunes
from flasc_flwr.core.ranges import integer, number, switch, text
from flasc_flwr.core.settings import setting

OF_LORA = "all methods but `full` and `linear`"
"""Which methods use settings of LoRA."""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """The LoRA adapter, as the run config gives it."""

    lora_rank: int = setting(16, RANK, "rank of the adapter", used_by=OF_LORA)
    lora_alpha: float = setting(
        16.0,
        number("(0, inf)"),
        "the adapter's scale is lora-alpha / lora-rank",
        used_by=OF_LORA,
    )
    use_rslora: bool = setting(
        False,
        switch(),
        "make that scale lora-alpha / sqrt(lora-rank) (rsLoRA)",
        used_by=OF_LORA,
    )
    use_dora: bool = setting(
        False,
        switch(),
        "train the lengths of the weights' rows apart from their directions (DoRA)",
        used_by=OF_LORA,
    )
    lora_dropout: float = setting(
        0.0,
        number("[0, 0.95]"),
        "probability of dropout, in the adapter only",
        used_by=OF_LORA,
    )
    lora_targets: str = setting(
        "auto",
        text(),
        'modules to adapt, such as "query,attn.Wo", or all-linear; auto depends on the '
        "model",
        used_by=OF_LORA,
    )
    saved_modules: str = setting(
        "auto",
        text(),
        'modules that are fully trained, such as "classifier"; auto is the head',
    )
    head_rank: int = setting(
        0,
        integer(0),
        "rank of the head's linear layers, each as two that are trained; 0 trains the "
        "layers themselves",
        used_by="all methods but `full`",
    )
    adapter: str = setting(
        "", text(), 'PEFT folder to start from; "" is a new adapter', used_by=OF_LORA
    )

    peft_config: str = setting(
        "",
        text(),
        "PEFT config of another tuner than LoRA (docs/tuners.md): the absolute path of "
        'a .json or .toml file, or JSON text; "" is LoRA',
        used_by=OF_LORA,
    )

    @property
    def adapter_scale(self) -> float:
        """The factor of B A in the model."""
        return self.lora_alpha / self.per_scale(self.lora_rank)

    def per_scale(self, rank: int) -> float:
        """Return alpha / scale at a rank; rsLoRA is arXiv 2312.03732."""
        return sqrt(rank) if self.use_rslora else float(rank)

    def require_adapter(self, method: Method) -> None:
        """Check that the method can do what the adapter needs.

        Raises
        ------
        ValueError
            If it scales B by rank as plain LoRA does, or computes with products B A
            that are not what the adapter adds to the weights.
        """
        if self.head_rank and (method.tunes == Tunes.FULL or self.adapter):
            why = "an adapter" if self.adapter else f"method {method.name!r}"
            raise ValueError(
                f"head-rank must be 0 with {why}, whose head is not in two factors, "
                f"got {self.head_rank}"
            )
        if self.use_rslora and method.rank_scale == "own":
            raise ValueError(
                "use-rslora must be false with rank-scale 'own', which rescales B in "
                f"transit by alpha / rank (method {method.name!r}), got true"
            )
        if method.tunes == Tunes.CORES:
            self._require_cores(method)
        if self.use_dora and method.replaces_factors:
            raise ValueError(
                f"use-dora must be false with method {method.name!r}, which computes "
                "with the products B A: DoRA's weights are not their sum, got true"
            )

    def _require_cores(self, method: Method) -> None:
        if self.use_dora or self.adapter:
            key, wanted = ("use-dora", "false") if self.use_dora else ("adapter", "''")
            given = "true" if self.use_dora else repr(self.adapter)
            raise ValueError(
                f"{key} must be {wanted} with method {method.name!r}, which trains "
                f"cores between fixed bases, got {given}"
            )
        if self.lora_rank % method.core_heads:
            raise ValueError(
                f"lora-rank must be a multiple of core-heads {method.core_heads} with "
                f"method {method.name!r}, got {self.lora_rank}"
            )
