"""Models in GGUF files: converted once, then loaded like any folder with a model."""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib.util import find_spec
from logging import INFO
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from platformdirs import user_cache_path
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import log

SUFFIX = ".gguf"

_SAMPLE = 1 << 20
"""Bytes at each end of a file that its digest covers: the header is at the start."""


def is_gguf(path: str) -> bool:
    """Whether a path names a GGUF file."""
    return path.lower().endswith(SUFFIX)


def converted(path: str, dtype: torch.dtype) -> Path:
    """Return a folder with the model, tokenizer and chat template of a GGUF file.

    The first process that needs it reads the file with transformers and saves the model
    in the user's cache; others wait for it. After that, each process maps the weights
    into memory, which copies nothing, instead of dequantizing them.

    Parameters
    ----------
    path : str
        The file.
    dtype : torch.dtype
        Precision of the saved weights: quantized ones are dequantized to it.

    Raises
    ------
    ValueError
        If the package gguf is not installed.
    OSError
        If a file cannot be read or written.
    """
    if find_spec("gguf") is None:
        raise ValueError(
            f"model must not be a GGUF file without the package gguf, got {path!r}: "
            "install it (pip install gguf)"
        )
    file = Path(path).resolve(strict=True)
    folder = cache_folder(file, dtype)
    if _complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _complete(folder):
            _convert(file, dtype, folder)
    return folder


def cache_folder(file: Path, dtype: torch.dtype) -> Path:
    """Return where a GGUF file is kept, with a digest of the file in its name.

    The digest is the start of the SHA-256 of the file's size, time and first and last
    MiB, of `dtype` and of transformers' version: hashing a whole file of several GB
    would take longer than a round.
    """
    status = file.stat()
    name = str(dtype).rpartition(".")[2]
    facts = (status.st_size, status.st_mtime_ns, name, transformers.__version__)
    digest = hashlib.sha256(repr(facts).encode())
    with file.open("rb") as opened:
        digest.update(opened.read(_SAMPLE))
        opened.seek(max(0, status.st_size - _SAMPLE))
        digest.update(opened.read())
    key = f"{file.stem[:60]}-{name}-{digest.hexdigest()[:12]}"
    return user_cache_path("flasc-flwr") / "gguf" / key


def _complete(folder: Path) -> bool:
    """Whether a folder was written to its end; it is renamed when it was."""
    return (folder / "config.json").is_file()


def _convert(file: Path, dtype: torch.dtype, folder: Path) -> None:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    log(INFO, "Reading %s (once; kept in %s)", printable(file.name, 120), folder)
    source: Any = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
    }
    model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
    if any(not p.is_floating_point() for p in model.parameters()):
        raise ValueError("transformers did not dequantize its weights")
    # The weights are plain now: transformers would refuse to save them as GGUF.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(**source)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fresh = Path(scratch) / folder.name
        model.to(dtype).save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        os.rename(fresh, folder)
