"""Language models for foreign apps: from a package, and what they have learned."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def resolve(value: Any, into: Path) -> Any:
    """Return a run-config value, a model's name replaced by a local folder."""
    if isinstance(value, str) and value.startswith("package:"):
        package, _, folder = value.removeprefix("package:").partition("/")
        return str(package_folder(package) / folder)
    if value == "bert:tiny":
        return str(small_bert(into))
    if isinstance(value, str) and value.startswith("llm:"):
        return str(unpacked(value.removeprefix("llm:"), into))
    return value


def package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(spec.origin).parent


def unpacked(package: str, into: Path) -> Path:
    """Return a folder with the model of a package's GGUF file, made once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = into / "models" / package
    if not (folder / "config.json").is_file():
        source = package_folder(package)
        (file,) = source.glob("*.gguf")
        for kind in (AutoTokenizer, AutoModelForCausalLM):
            loaded = kind.from_pretrained(source, gguf_file=file.name)
            loaded.save_pretrained(folder)
    return folder


def small_bert(into: Path) -> Path:
    """Return a folder with an untrained BERT of two layers, and its tokenizer.

    It stands for prajjwal1/bert-tiny, of the same shape but with few words. The app
    fixes a learning rate of 5e-5: at BERT's own standard deviation of 0.02, nothing is
    learned in so few steps.
    """
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,
    )

    from foreign.data import WORDS

    folder = into / "models" / "bert"
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        (folder / "vocab.txt").write_text("\n".join([*marks, *WORDS]))
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        config = BertConfig(
            vocab_size=1000,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            initializer_range=0.05,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def answer_loss(arrays: Any, config: Mapping[str, Any]) -> float:
    """Return the mean loss of held-out answers' tokens, for an app of FlowerTune.

    The model, its prompts and its labels are made by the app's own functions.
    """
    import torch
    from flwr.common.config import unflatten_dict
    from omegaconf import DictConfig
    from peft import set_peft_model_state_dict

    from foreign.data import instructions

    packages = ("flowertune_llm", "flowertune_medical")
    package = next(name for name in packages if name in sys.modules)
    models, dataset = (sys.modules[f"{package}.{m}"] for m in ("models", "dataset"))
    given = DictConfig(dataset.replace_keys(unflatten_dict(config)))
    model = models.get_model(given.model)
    set_peft_model_state_dict(model, arrays.to_torch_state_dict())
    model.eval()
    make = dataset.get_tokenizer_and_data_collator_and_propt_formatting
    tokenizer, collator, prompts = make(given.model.name)
    rows = instructions("test")["train"].select(range(16))
    texts = prompts({"instruction": rows["input"], "response": rows["output"]})
    total, count = 0.0, 0
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=given.train.seq_length)
        batch = collator([tokens])
        known = int((batch["labels"][:, 1:] != -100).sum())
        if known:
            with torch.no_grad():
                total += known * float(model(**batch).loss)
            count += known
    return total / count


def mean_value(arrays: Any, config: Mapping[str, Any]) -> float:
    """Return the mean of all values of a model that does not learn."""
    values = [value for array in arrays.to_numpy_ndarrays() for value in array.flat]
    return float(sum(values) / len(values))
