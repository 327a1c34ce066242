"""What is merged into the backbone: sums of B A beyond the rank of the adapter.

Stored by module: as factors while these are smaller than their product, then as the
product. Not yet multiplied by alpha / r: the adapter's scale still applies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.finite import require_finite, require_finite_product

Merged = dict[str, NDArray[np.float32]]
"""``<module>.merged_B`` (out, R) and ``<module>.merged_A`` (R, in), or
``<module>.merged`` (out, in)."""

Terms = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""B (out, R) and A (R, in) to merge, by module."""

_PRODUCT, _B, _A = ".merged", ".merged_B", ".merged_A"


def merge(merged: Merged, terms: Terms) -> Merged:
    """Return `merged` plus some terms."""
    result = dict(merged)
    for module, (b, a) in terms.items():
        if module + _PRODUCT in result:
            product = result[module + _PRODUCT] + b @ a
            result[module + _PRODUCT] = product.astype(np.float32)
            continue
        if module + _B in result:
            b = np.concatenate([result.pop(module + _B), b], axis=1)
            a = np.concatenate([result.pop(module + _A), a], axis=0)
        if b.size + a.size < b.shape[0] * a.shape[1]:
            result[module + _B] = b.astype(np.float32)
            result[module + _A] = a.astype(np.float32)
        else:
            result[module + _PRODUCT] = (b @ a).astype(np.float32)
    return result


def require_finite_merged(merged: Merged, modules: Iterable[str]) -> None:
    """Check that what is merged into some modules is finite, as a product too.

    Raises
    ------
    NotFiniteError
        If it is not.
    """
    for module in modules:
        if module + _PRODUCT in merged:
            require_finite("the merged products", merged[module + _PRODUCT])
        else:
            require_finite_product(
                "the merged products", merged[module + _B], merged[module + _A]
            )


def product_of(merged: Mapping[str, NDArray[Any]], module: str) -> NDArray[Any]:
    """Return the matrix, shape (out, in), that is merged into a module."""
    if module + _PRODUCT in merged:
        return merged[module + _PRODUCT]
    return np.asarray(merged[module + _B] @ merged[module + _A])


def factors_of(
    merged: Mapping[str, NDArray[Any]], module: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return B (out, R) and A (R, in) of the product that is merged into a module."""
    if module + _PRODUCT in merged:
        product = merged[module + _PRODUCT]
        return product, np.eye(product.shape[1], dtype=product.dtype)
    return merged[module + _B], merged[module + _A]


def merged_modules(names: Iterable[str]) -> list[str]:
    """Return the modules that the names of merged arrays belong to.

    Raises
    ------
    ValueError
        If a name is not that of a merged array.
    """
    found = set()
    for name in names:
        module, dot, kind = name.rpartition(".")
        if not module or dot + kind not in (_PRODUCT, _B, _A):
            raise ValueError(f"{name!r} is not the name of a merged array")
        found.add(module)
    return sorted(found)
