"""The fixed bases of cores: drawn from the seed, or taken from the frozen weights.

Those of the clients' first gradients are not known when a model is built.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from platformdirs import user_cache_path
from safetensors.numpy import load_file, save_file
from torch import Tensor

from flasc_flwr.app.config import RunConfig
from flasc_flwr.core.cores import seeded_bases

Bases = dict[str, tuple[Tensor, Tensor]]
"""B of shape (out, R) and A of shape (R, in), float32, by module."""

_ITERATIONS = 8
"""Power iterations of the randomised SVD."""


def bases_of(layers: Mapping[str, LoraLayer], config: RunConfig) -> Bases:
    """Return the bases of all adapted modules, equal on all machines up to rounding.

    Zeros where they are still to be measured.

    Parameters
    ----------
    layers : Mapping[str, LoraLayer]
        The adapted modules by name.
    config : RunConfig
        Rank, seed and where the bases come from.

    Raises
    ------
    ValueError
        If they are to come from weights that are quantized.
    """
    basis, rank = config.compose().core_basis, config.lora_rank
    if basis == "gradient":
        every = {name: sides(layer) for name, layer in layers.items()}
        return {
            name: (torch.zeros(out, rank), torch.zeros(rank, inputs))
            for name, (out, inputs) in every.items()
        }
    if basis == "seed":
        return _float32(
            {
                name: seeded_bases(name, sides(layer), rank, config.seed)
                for name, layer in layers.items()
            }
        )
    if config.quantize != "none":
        raise ValueError(
            "core-basis must be 'seed' or 'gradient' with a quantized backbone, whose "
            f"weights are packed, got 'weights' with quantize {config.quantize!r}"
        )
    weights = {name: _weight(layer) for name, layer in layers.items()}
    return _float32(_cached(weights, rank))


def _float32(
    bases: Mapping[str, tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]],
) -> Bases:
    def as_tensor(values: NDArray[np.floating[Any]]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    return {name: (as_tensor(b), as_tensor(a)) for name, (b, a) in bases.items()}


def sides(layer: LoraLayer) -> tuple[int, int]:
    """Return (out, in) of a linear module."""
    return cast(int, layer.out_features), cast(int, layer.in_features)


def _weight(layer: LoraLayer) -> NDArray[np.float32]:
    """Return the frozen weight of a linear module, shape (out, in)."""
    tensor = cast(Tensor, layer.get_base_layer().weight)
    weight = tensor.detach().float().cpu().numpy()
    # GPT-2's are transposed.
    turned = bool(getattr(layer, "fan_in_fan_out", False))
    return np.ascontiguousarray(weight.T if turned else weight)


def weight_bases(
    weight: NDArray[np.floating[Any]], rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``B = U S`` and ``A = V^T`` of the truncated SVD of a weight or a step.

    As LoRA-XS (arXiv 2405.17604) does with a weight. Computed in float64 by a
    randomised SVD with a fixed seed, and with fixed signs, so that all machines have
    the same.

    Parameters
    ----------
    weight : NDArray, shape (out, in)
    rank : int
        Number of singular vectors.
    """
    # Imported late: with bases from the seed, nothing here needs it.
    from sklearn.utils.extmath import randomized_svd

    u, s, vt = randomized_svd(
        weight.astype(np.float64),
        rank,
        n_iter=_ITERATIONS,
        power_iteration_normalizer="QR",
        random_state=0,
    )
    return (u * s).astype(np.float32), vt.astype(np.float32)


def _cached(
    weights: Mapping[str, NDArray[np.float32]], rank: int
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return the bases of weights from the cache folder; compute them if missing."""
    file = cache_folder() / f"{_key(weights, rank)}.safetensors"
    saved = _load(file)
    names = [f"{name}.{factor}" for name in weights for factor in "BA"]
    if saved is None or saved.keys() != set(names):
        made = (weight_bases(weight, rank) for weight in weights.values())
        pairs = [factor for pair in made for factor in pair]
        saved = dict(zip(names, map(np.ascontiguousarray, pairs), strict=True))
        _replace(file, lambda path: save_file(saved, path))
    return {name: (saved[f"{name}.B"], saved[f"{name}.A"]) for name in weights}


def cache_folder() -> Path:
    """Return the folder of the bases that were computed from weights."""
    return user_cache_path("flasc-flwr") / "core-bases"


def _key(weights: Mapping[str, NDArray[np.float32]], rank: int) -> str:
    digest = hashlib.sha256(f"{_ITERATIONS}/{rank}".encode())
    for name, weight in weights.items():
        digest.update(f"/{name}/{weight.shape}/".encode())
        digest.update(weight.data)
    return digest.hexdigest()[:24]


def _load(file: Path) -> dict[str, NDArray[np.float32]] | None:
    try:
        return dict(load_file(file))
    except Exception:  # missing or damaged: it is computed again
        return None


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file atomically: several processes may compute the same bases at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        fresh = Path(scratch) / file.name
        write(fresh)
        os.replace(fresh, file)
