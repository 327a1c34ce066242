"""What a published model says of its training: data, rounds, bytes and method."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import SavedRun
from flasc_flwr.app.reporting.summary import SKIPPED_AT_THE_END, failure
from flasc_flwr.app.tasks.sources import local_path, looks_local
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.printable import printable

_FRONT = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)
_PATH = re.compile(r"""(['"])(?:~|[A-Za-z]:)?[/\\].*?\1|(?<!\w)~?/[^\s'",;]+""")
"""A path, in quotes or not."""

_TAGS = ["federated-learning", "flower", "flasc-flwr"]


def write_card(
    run: SavedRun, folder: Path, *, merged: bool, round: int | None = None
) -> None:
    """Rewrite an exported folder's README as a model card.

    Folders on this machine, such as that of a local model, are not named: only what
    they are called, there and in the adapter's config.

    Parameters
    ----------
    run : SavedRun
        The run that trained the model.
    folder : Path
        The exported folder.
    merged : bool
        Whether it has a whole model, and not an adapter.
    round : int, optional
        The round after which its adapter was saved (default: the last one).
    """
    run = _without_paths_in_reason(run)
    readme = folder / "README.md"
    body = _FRONT.sub("", readme.read_text("utf-8"))
    for path in _without_paths(run, folder):
        body = body.replace(path, shown_source(run.config.model))
    front = as_front_matter(run, merged=merged)
    readme.write_text(f"{front}\n{body.rstrip()}\n\n{_training(run, round)}", "utf-8")


def shown_source(source: str) -> str:
    """Return a model or data set as others may see it: of a path, only its end."""
    if source.startswith("package:"):
        return printable(source, 200)
    if looks_local(source) or local_path(source).is_absolute():
        return printable(local_path(source).name, 200)
    return printable(source, 200)


def as_front_matter(run: SavedRun, *, merged: bool) -> str:
    """Return the fields that a hub reads; values are JSON, which YAML contains."""
    config = run.config
    lines = {
        "library_name": "transformers" if merged else "peft",
        "tags": [*_TAGS, "lora"] if config.compose().tunes.adapts else _TAGS,
    }
    for field, source in (("base_model", config.model), ("datasets", config.dataset)):
        if _is_on_hub(source):
            lines[field] = [source]
    if config.task in ("causal-lm", "instruction"):
        lines["pipeline_tag"] = "text-generation"
    written = "\n".join(f"{name}: {as_json(value)}" for name, value in lines.items())
    return f"---\n{written}\n---\n"


def _is_on_hub(source: str) -> bool:
    here = looks_local(source) or local_path(source).exists()
    return bool(source) and not here and not source.startswith("package:")


def _without_paths(run: SavedRun, folder: Path) -> list[str]:
    """Replace a local path in the adapter's config; return it."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return []
    saved: dict[str, Any] = json.loads(file.read_text("utf-8"))
    base = str(saved.get("base_model_name_or_path") or "")
    if not looks_local(base):
        return []
    saved["base_model_name_or_path"] = shown_source(run.config.model)
    file.write_text(as_json(saved, indent=2) + "\n", "utf-8")
    return [base, str(Path(base).parent)] if base.endswith(".gguf") else [base]


def _without_paths_in_reason(run: SavedRun) -> SavedRun:
    """Return a run whose reason of having failed names no folder of this machine."""
    if run.status != "failed":
        return run
    ended = _PATH.sub("(a path)", run.ended)
    return replace(run, summary={**run.summary, "ended": ended})


def _training(run: SavedRun, round: int | None) -> str:
    facts = _facts(run, round)
    if round is not None:  # how the run ended is not of this adapter
        facts = [fact for fact in facts if fact[0] != "ended"]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts)
    return (
        "## How it was trained\n\nBy federated learning: the training data stayed "
        "with the clients, which sent updates of the trained parameters. MB are 10^6 "
        f"bytes of whole messages, all clients together.\n\n| | |\n|---|---|\n{rows}\n"
    )


def _after(run: SavedRun, round: int) -> dict[str, Any]:
    """Return what a summary would have said after a round.

    Of what is measured, only what was measured then: it is of another adapter
    otherwise.
    """
    rows = [row for row in run.history if row["round"] <= round]
    down, up = (
        sum(row[f"message_bytes_{way}"] for row in rows) for way in ("down", "up")
    )
    dense = sum(row.get("dense_float32_bytes") or 0 for row in rows)
    measured = next((row for row in rows if row["round"] == round), {})
    return {
        **{name: value for name, value in measured.items() if value is not None},
        "adapter_parameters": run.summary.get("adapter_parameters"),
        "message_bytes_down": down,
        "message_bytes_up": up,
        "reduction_vs_dense_float32": dense / (down + up) if dense and rows else None,
    }


def _facts(run: SavedRun, round: int | None) -> list[tuple[str, str]]:
    config = run.config
    summary = run.summary if round is None else _after(run, round)
    done = run.rounds if round is None else round
    facts = [
        ("base model", shown_source(config.model) if config.model else "its own"),
        ("data", shown_source(config.dataset) if config.dataset else config.task),
        ("task", config.task),
        ("method", config.method),
        ("clients", str(run.clients or "unknown")),
        ("rounds", f"{done} of {config.num_server_rounds}"),
        ("rank, alpha", _rank(config)),
        ("trained parameters", _count(summary.get("adapter_parameters"))),
        ("sent to clients", _mb(summary.get("message_bytes_down"))),
    ]
    if not config.privacy:  # the length of an update depends on a client's data
        facts += [
            ("sent by clients", _mb(summary.get("message_bytes_up"))),
            (
                "less than dense float32",
                _times(summary.get("reduction_vs_dense_float32")),
            ),
        ]
    for name, words in _MEASURED.items():
        if isinstance(value := summary.get(name), float):
            facts.append((words, f"{value:.4g}"))
    for name, value in summary.items():
        if name.startswith("loss_") and isinstance(value, float):
            facts.append((f"test loss, {_cell(name[5:])}", f"{value:.4g}"))
    facts.append(("ended", _cell(_ended(run))))
    return facts


def _ended(run: SavedRun) -> str:
    """Return why a run ended; of a private one without what its clients replied."""
    if not run.config.privacy:
        return run.ended
    failed = failure(run.summary) is not None
    return "it failed" if failed else run.ended.partition(SKIPPED_AT_THE_END)[0]


def _rank(config: RunConfig) -> str:
    if config.has_rank:
        return f"{config.lora_rank}, {config.lora_alpha:g}"
    return "no LoRA"


_MEASURED = {
    "loss": "test loss",
    "accuracy": "test accuracy",
    "perplexity": "test perplexity",
    "exact_match": "exact match of final answers",
    "rouge_l": "ROUGE-L of answers",
    "epsilon": "epsilon of differential privacy",
    "delta": "delta of differential privacy",
}


def _cell(text: str) -> str:
    """Return text that cannot leave its cell, or become markup."""
    shown = re.sub(r"[|<>\[\]`*_\\]", " ", text)
    return printable(shown)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"


def _mb(value: Any) -> str:
    return f"{value / 1e6:,.2f} MB" if isinstance(value, int) else "unknown"


def _times(value: Any) -> str:
    return f"{value:.1f} times" if isinstance(value, float) else "unknown"
