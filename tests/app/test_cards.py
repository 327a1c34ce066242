"""What was exported loads as its README says, in a process without flasc-flwr."""

import json
import re
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from flasc_flwr.app.training.export import save
from tests.app.architectures import save_architecture
from tests.app.files import image_task, text_task

pytestmark = pytest.mark.usefixtures("built_cache")

# Importing flasc_flwr is an error. Each folder's own code is imported.
_LOSSES = """
import json, os, re, sys
sys.modules["flasc_flwr"] = None
sys.path.insert(0, "")
import torch
losses = {}
for name in sorted(os.listdir(sys.argv[1])):
    os.chdir(os.path.join(sys.argv[1], name))
    sys.modules.pop("mean_pooled_classifier", None)
    code, = re.findall("```python\\n(.*?)```", open("README.md").read(), re.S)
    found = {}
    exec(code, found)
    batch = torch.load("batch.pt")
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = found["model"](**batch).logits
    losses[name] = float(torch.nn.functional.cross_entropy(logits, labels))
print(json.dumps(losses))
"""


def trained(build, *arguments, **settings):
    settings = {"client_optimizer": "adamw", "local_epochs": 2} | settings
    task = build(*arguments, **settings)
    task.train(task.data.partition(0, 2), seed=0)
    return task


def exported(task, folder):
    """Save what was trained, and a batch; return the model's loss on it."""
    save(task.model, folder, {}, task.scale)
    batch = task.data.test.batch(torch.arange(16))
    torch.save(batch, folder / "batch.pt")
    task.model.eval()
    with torch.no_grad():
        return float(task.model(**batch).loss)


@pytest.mark.slow
def test_exports_give_the_same_loss_as_in_the_run(root, tmp_path):
    """Also the adapter of the mean head, which plain PEFT has no class for."""
    texts = root / "t-*.jsonl"
    save_architecture(tmp_path / "t5", "t5")
    folders = tmp_path / "exported"
    folders.mkdir()
    tasks = {
        "mean": lambda: trained(text_task, root / "bert", texts, head="mean"),
        "mean of an encoder-decoder": lambda: trained(
            text_task, tmp_path / "t5", texts, head="mean"
        ),
        "mean, whole": lambda: trained(
            text_task, root / "bert", texts, head="mean", method="full"
        ),
        "encoder": lambda: trained(text_task, root / "bert", texts),
        "encoder, whole": lambda: trained(
            text_task, root / "bert", texts, method="full"
        ),
        "decoder": lambda: trained(text_task, root / "gpt2", texts),
        "images": lambda: trained(image_task, root / "vit", root / "i.npz"),
    }
    expected = {name: exported(task(), folders / name) for name, task in tasks.items()}
    done = subprocess.run(
        [sys.executable, "-c", _LOSSES, str(folders)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    given = json.loads(done.stdout.splitlines()[-1])
    assert given == pytest.approx(expected, rel=1e-5)


def test_an_adapter_of_the_mean_head_does_not_load_onto_another_head(root, tmp_path):
    """PEFT would leave out the factors, and give another loss with a warning only."""
    task = trained(text_task, root / "bert", root / "t-*.jsonl", head="mean")
    exported(task, tmp_path / "adapter")
    stock = AutoModelForSequenceClassification.from_pretrained(root / "bert")
    with pytest.raises(ValueError, match="No modules were targeted for adaptation"):
        PeftModel.from_pretrained(stock, str(tmp_path / "adapter"))


def test_names_in_a_readme_are_printable_and_quoted(root, tmp_path):
    task = trained(text_task, root / "bert", root / "t-*.jsonl")
    config = task.model.peft_config["default"]
    config.base_model_name_or_path = "a'b\n```\nimport os\x1b[31m"
    save(task.model, tmp_path / "adapter", {}, task.scale)
    text = (tmp_path / "adapter/README.md").read_text()
    assert "\x1b" not in text and text.count("\n```") == 2
    (code,) = re.findall(r"```python\n(.*?)\n```\n$", text, re.S)
    compile(code, "README.md", "exec")
