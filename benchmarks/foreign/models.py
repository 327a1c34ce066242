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
    """Return a folder with a BERT of two layers, trained once on two classes of news.

    It stands for prajjwal1/bert-tiny, pretrained, of the same shape but with 2,000 word
    pieces. The classes are others than those of the app's data.
    """
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,
    )

    from foreign.data import headlines

    folder = into / "models" / "bert"
    if (folder / "config.json").is_file():
        return folder
    rows = headlines(0, 3)["train"]
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator([*rows["text"]], vocab_size=2000)
    folder.mkdir(parents=True, exist_ok=True)
    pieces.save_model(str(folder))
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=512, **shape)
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        for batch in rows.shuffle(seed=0).iter(32):
            tokens = tokenizer(batch["text"], padding=True, return_tensors="pt")
            loss = model(**tokens, labels=torch.tensor(batch["label"])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
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
