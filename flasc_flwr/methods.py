"""Methods by name: each a composition of small parts, a row in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """What travels and how it is put together, as data.

    Attributes
    ----------
    name : str
        The name in the run config.
    sparse : bool
        Whether the densities apply: the download is the top-k of the server's
        weights, and the upload the top-k of the client's update. Otherwise both
        are whole.
    value_format : str
        What ``value-format = "auto"`` stands for.
    source : str
        Where the method is from.
    """

    name: str
    sparse: bool
    value_format: str
    source: str


METHODS = {
    method.name: method
    for method in (
        Method(
            name="dense",
            sparse=False,
            value_format="float32",
            source="FedAvg of LoRA factors (Zhang et al., arXiv 2305.05644)",
        ),
        Method(
            name="flasc",
            sparse=True,
            value_format="bfloat16",
            source="FLASC (Kuo et al., arXiv 2406.05233)",
        ),
    )
}
