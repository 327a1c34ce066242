"""The README in an exported folder: how to load it without flasc-flwr."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from flasc_flwr.app.training import heads
from flasc_flwr.app.training.lora import Model
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.printable import printable

_CODE = "mean_pooled_classifier"
"""Name of the module with the head's code, beside an adapter that needs it."""


def describe(model: Model, path: Path) -> None:
    """Write a README with the code that loads a folder that was just saved.

    A head that is not transformers' own gets its code beside it, and a PEFT config
    that fits no other model: PEFT would load such an adapter onto the model's usual
    head, and leave out the factors, with a warning only.

    Parameters
    ----------
    model : Model
        The model that was saved.
    path : Path
        The folder.
    """
    lora = isinstance(model, PeftModel)
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    base = json.loads((path / "adapter_config.json").read_text("utf-8")) if lora else {}
    name = printable(base.get("base_model_name_or_path") or "the base model", 200)
    if isinstance(inner, heads.MeanPooledClassifier):
        shutil.copyfile(heads.__file__, path / f"{_CODE}.py")
        if isinstance(model, PeftModel):
            _bind(model, base, path)
        how, code = _MEAN, _mean_code(name if lora else None)
    elif lora:
        kind = "LoRA" if base.get("peft_type") == "LORA" else base.get("peft_type")
        how, code = _ADAPTER.format(kind=kind), _adapter_code(inner, name)
    else:
        how, code = _WHOLE, _whole_code(inner)
    front = f"---\nbase_model: {as_json(name)}\nlibrary_name: peft\n---\n\n"
    text = f"# {type(inner).__name__}, trained with flasc-flwr\n\n{how}\n"
    fenced = f"\n```python\n{code}\n```\n"
    (path / "README.md").write_text((front if lora else "") + text + fenced, "utf-8")


_MEAN = """\
Its head, a linear layer on the mean of the token vectors, is not one of transformers':
the code is in `mean_pooled_classifier.py` beside this file. The adapter does not fit
other heads, such as that of `AutoModelForSequenceClassification`. With this folder as
the working directory:"""
_ADAPTER = "An adapter of PEFT ({kind}). With this folder as the working directory:"
_WHOLE = "A whole model. With this folder as the working directory:"


def _mean_code(base: str | None) -> str:
    where = "" if base is None else f", model={base!r}"
    return f'from {_CODE} import load\n\nmodel = load("."{where})'


def _adapter_code(inner: PreTrainedModel, base: str) -> str:
    name, config = type(inner).__name__, inner.config
    classes = name.endswith("Classification")
    counted = (
        f"\n    num_labels={config.num_labels},\n    ignore_mismatched_sizes=True,"
        if classes
        else ""
    )
    lines = [
        "import torch",
        "from peft import PeftModel",
        f"from transformers import {name}",
        "",
        f"base = {name}.from_pretrained(",
        f"    {_source(base)},\n    dtype=torch.float32,{counted}",
        ")",
    ]
    if classes and getattr(config, "pad_token_id", None) is not None:
        lines.append(f"base.config.pad_token_id = {int(config.pad_token_id)}")
    return "\n".join([*lines, 'model = PeftModel.from_pretrained(base, ".").eval()'])


def _source(base: str) -> str:
    """Return the arguments with which transformers loads a base model."""
    if not base.endswith(".gguf"):
        return repr(base)
    folder, _, file = base.rpartition("/")
    return f"{folder!r},\n    gguf_file={file!r}"


def _whole_code(inner: PreTrainedModel) -> str:
    name = type(inner).__name__
    return (
        f'from transformers import {name}\n\nmodel = {name}.from_pretrained(".").eval()'
    )


def _bind(model: PeftModel, saved: dict[str, Any], path: Path) -> None:
    """Let a PEFT config name its modules in full, so that it fits this head only."""
    names = (re.escape(name) for name in model.targeted_module_names)
    patterns = dict.fromkeys(re.sub(r"\d+", r"\\d+", name) for name in names)
    saved["target_modules"] = "|".join(patterns)
    text = as_json(saved, indent=2)
    (path / "adapter_config.json").write_text(text + "\n", "utf-8")
