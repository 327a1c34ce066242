"""Whole runs of methods with small cores: the real apps, in one process."""

import json

import numpy as np
import pytest
from peft import PeftModel

import client_app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.local import evaluate_model
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.test_apps import run

SPARSE = {
    "download_density": "1/4",
    "upload_density": "1/8",
    "value_format": "step",
    "fraction_train": 1.0,
    "client_learning_rate": 0.1,
}
KINDS = {
    "fed-sb": {"method": "fed-sb", "lora_rank": 8, "error_feedback": "both"},
    "ravan": {
        "method": "ravan",
        "lora_rank": 16,
        "core_basis": "weights",
        # Bases with singular values in them: steps are larger.
        "client_learning_rate": 0.02,
    },
}


def simulate(folder, ranks=(None, None, 3, 6), **settings):
    """Run on four devices, some of which have a smaller rank."""
    load_task.cache_clear()
    folder.mkdir(exist_ok=True)
    common = RunConfig().to_dict() | {"local-epochs": 1}
    config = common | {k.replace("_", "-"): v for k, v in settings.items()}
    devices = [
        {"partition-id": number, "num-partitions": 4}
        | ({} if rank is None else {"lora-rank": rank})
        for number, rank in enumerate(ranks)
    ]
    grid = LocalGrid(client_app.app, 4, run_config=config, node_configs=devices)
    return run(folder, grid, **settings)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_devices_of_unequal_ranks_send_sparse_cores(tmp_path, settings):
    """Sparse and coded both ways, and exported as a LoRA."""
    settings = SPARSE | settings
    whole = simulate(tmp_path / "whole", **settings, num_server_rounds=3)
    for row in whole.history[1:]:
        assert row["replies"] == 4 and not row["failures"]
        assert 0 < row["kept_up"] < 0.13
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]
    saved = json.loads((whole.folder / "adapter/adapter_config.json").read_text())
    assert saved["r"] == settings["lora_rank"]
    public, _, test = parts()
    backbone = pretrained_backbone(public["pixel_values"], public["labels"])
    model = PeftModel.from_pretrained(backbone, str(whole.folder / "adapter"))
    outcome = evaluate_model(model, Examples.of(test), RunConfig())
    assert outcome.loss == pytest.approx(whole.summary["loss"], rel=1e-4)


def test_a_run_with_heads_resumes(tmp_path):
    settings = SPARSE | KINDS["ravan"] | {"checkpoint_every": 1}
    whole = simulate(tmp_path / "whole", **settings, num_server_rounds=3)
    simulate(tmp_path / "parts", **settings, num_server_rounds=2)
    resumed = simulate(
        tmp_path / "parts", **settings, num_server_rounds=3, resume="latest"
    )
    for key in ("accuracy", "loss", "payload_bytes_up", "payload_bytes_down"):
        assert resumed.summary[key] == whole.summary[key], key


def test_a_core_is_a_fraction_of_loras_bytes(tmp_path):
    """R x R entries of each of 8 modules of 128 x 128, and the head's 1,290."""
    for method, entries in (("dense", 2 * 128 * 8), ("fed-sb", 8 * 8)):
        summary = simulate(
            tmp_path / method,
            ranks=(None,) * 4,
            method=method,
            lora_rank=8,
            num_server_rounds=1,
        ).summary
        assert summary["adapter_parameters"] == 8 * entries + 1290


def test_cores_train_with_differential_privacy(tmp_path):
    """Their update is one vector like any other: clipped as a whole, and noised."""
    private = {"dp_clip_norm": 0.5, "dp_noise_multiplier": 0.3, "dp_population": 4}
    result = simulate(
        tmp_path / "run",
        ranks=(None,) * 4,
        method="ravan",
        lora_rank=8,
        aggregation="zero-padded-updates",
        dp_noise_seed=1,
        **private,
    )
    rows = result.history[1:]
    assert all(row["replies"] > 0 and not row["failures"] for row in rows)
    assert all(np.isfinite(row["epsilon"]) for row in rows)
