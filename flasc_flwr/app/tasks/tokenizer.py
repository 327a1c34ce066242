"""The model's tokenizer, as its folder has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.checkpoints import load, require_folder

_ANY = ("tokenizer.json", "tokenizer.model", "tekken.json", "spiece.model")


def load_tokenizer(config: RunConfig) -> Any:
    """Load the model's tokenizer; without a padding token, it pads with its end token.

    FLASC's code does the same for GPT-2.

    Raises
    ------
    ValueError
        If it cannot be loaded, its files are missing, or it has neither token.
    """
    path = require_folder(config)
    try:
        tokenizer = load(
            config,
            lambda: AutoTokenizer.from_pretrained(path, trust_remote_code=False),
        )
    except ValueError as error:
        if Path(path).is_dir() and not any(_exists(path, name) for name in _ANY):
            raise _no_tokenizer({_ANY[0]}, config) from error
        raise
    _require_files(tokenizer, path, config)
    if "attention_mask" not in tokenizer.model_input_names:
        # Without it, models would read the padding.
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(
            "model must have a tokenizer with a padding or an end token, got "
            f"{config.model!r}"
        )
    # Padding on the left would shift the positions of the text in models like GPT-2.
    tokenizer.padding_side = "right"
    return tokenizer


def _require_files(tokenizer: Any, path: str, config: RunConfig) -> None:
    """Refuse a tokenizer that transformers made up because there is no vocabulary."""
    own = set(getattr(tokenizer, "vocab_files_names", {}).values())
    if not own:  # of bytes or characters: it needs no file
        return
    if not any(_exists(path, name) for name in sorted({*own, *_ANY})):
        raise _no_tokenizer(own | {_ANY[0]}, config)


def _no_tokenizer(files: set[str], config: RunConfig) -> ValueError:
    return ValueError(
        f"model must come with its tokenizer ({' or '.join(sorted(files))}), got "
        f"{config.model!r} without: save it there, with "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def _exists(path: str, name: str) -> bool:
    if Path(path).is_dir():
        return (Path(path) / name).is_file()
    found = cached_file(
        path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found is not None
