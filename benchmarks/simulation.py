"""Client trainings per second and peak memory of a simulation, beside two others.

The same client trainings run (a) in a Flower simulation of this project, (b) in one of
the pattern of Flower's LLM examples (benchmarks/llm_example: the model loaded for
each message, the whole adapter sent both ways, FedAvg), and (c) in a plain loop
without Flower or messages, the lower bound. One client trains at a time, on one thread,
or `--actors` of them: (c) is then as many processes. Rounds are timed after the first,
which loads models and data; (a), (b) and (c) take turns, and ratios are of medians.
"(a) computes" is the fraction of (a)'s rounds in which its clients computed, by their
own clocks: a/c if Flower's processes had their own core.

Run: PYTHONPATH=. python benchmarks/simulation.py [--json FILE] [--cases ...]
The cases on 20NewsGroups + MiniLM need --model and --dataset.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from simulation_runs import (
    Case,
    Taken,
    example_app,
    in_a_loop,
    in_simulation,
    timed_app,
)

DIGITS: dict[str, Any] = {"task": "digits"}
NEWS: dict[str, Any] = {
    "task": "text-classification",
    "classes": 20,
    "head": "mean",
    "max-length": 64,
    "dirichlet-alpha": 0.1,
    "local-epochs": 1,
    "client-optimizer": "adamw",
    "client-learning-rate": 0.0005,
}
LARGE = {"lora-targets": "query,key,value,dense"}


def cases(arguments: argparse.Namespace) -> dict[str, Case]:
    news = NEWS | {
        "model": arguments.model,
        "dataset": arguments.dataset,
        "precision": arguments.precision,
    }

    def on_digits(clients: int, cohort: int) -> Case:
        return Case(
            settings=DIGITS, clients=clients, cohort=cohort, rounds=arguments.rounds
        )

    def on_news(cohort: int, **more: Any) -> Case:
        settings = news | {name.replace("_", "-"): more[name] for name in more}
        return Case(
            settings=settings, clients=350, cohort=cohort, rounds=arguments.rounds
        )

    return {
        "digits-2": on_digits(20, 2),
        "digits-10": on_digits(20, 10),
        "digits-50": on_digits(100, 50),
        "news-2": on_news(2),
        "news-10": on_news(10),
        "news-50": on_news(50),
        # MiniLM's linear modules: 0.98 and 10 million parameters.
        "news-10-1M": on_news(10, lora_rank=23, **LARGE),
        "news-2-10M": on_news(2, lora_rank=240, **LARGE),
        "news-10-10M": on_news(10, lora_rank=240, **LARGE),
    }


def measure(
    chosen: dict[str, Case], repeats: int, actors: int
) -> dict[str, dict[str, list[Taken]]]:
    """Return what each case took in each way, each time."""
    taken: dict[str, dict[str, list[Taken]]] = {
        name: {"a": [], "b": [], "c": []} for name in chosen
    }
    with example_app() as example, timed_app() as own:
        for repeat in range(repeats):
            for name, case in chosen.items():
                ways = {
                    "a": lambda case=case: in_simulation(case, own, actors),
                    "b": lambda case=case: in_simulation(case, example, actors),
                    "c": lambda case=case: in_a_loop(case, actors),
                }
                for way, run in ways.items():
                    taken[name][way].append(run())
                    print(f"{name} {repeat + 1}/{repeats} ({way}):", end=" ")
                    print(taken[name][way][-1], flush=True)
    return taken


def table(
    chosen: dict[str, Case], taken: dict[str, dict[str, list[Taken]]]
) -> list[dict[str, Any]]:
    """Return a row for each case."""
    rows = []
    for name, ways in taken.items():
        row: dict[str, Any] = {"case": name}
        for way, runs in ways.items():
            seconds = median(s for run in runs for s in run.seconds)
            row[f"{way}_per_second"] = chosen[name].cohort / seconds
            row[f"{way}_megabytes"] = max(run.megabytes for run in runs)
        row["a_computing"] = median(run.computing or 0.0 for run in ways["a"])
        row["a_of_c"] = row["a_per_second"] / row["c_per_second"]
        row["a_of_b"] = row["a_per_second"] / row["b_per_second"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["digits-10"])
    parser.add_argument("--rounds", type=int, default=4, help="timed in each run")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--actors", type=int, default=1, help="clients at a time")
    parser.add_argument("--model", default="", help="MiniLM: key `model`")
    parser.add_argument("--dataset", default="", help="20NewsGroups: key `dataset`")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    known = cases(arguments)
    chosen = {name: known[name] for name in arguments.cases}
    rows = table(chosen, measure(chosen, arguments.repeats, arguments.actors))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))
    heads = "case|(a) /s|(b) /s|(c) /s|a/c|a/b|(a) computes|(a) MB|(b) MB|(c) MB"
    print(f"| {heads.replace('|', ' | ')} |")
    print("|" + "---|" * 10)
    for row in rows:
        cells = [
            *(f"{row[f'{way}_per_second']:.2f}" for way in "abc"),
            *(f"{row[key]:.2f}" for key in ("a_of_c", "a_of_b", "a_computing")),
            *(f"{row[f'{way}_megabytes']:,.0f}" for way in "abc"),
        ]
        print(f"| {row['case']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
