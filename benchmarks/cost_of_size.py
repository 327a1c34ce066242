"""What a round costs outside training, by the size of the adapter.

Beside each other, in one run: this project, and the pattern of Flower's LLM examples
(FlowerTune): FedAvg on the whole state dict of the adapter in float32. Both sides
are processes, training is a small random update, and every message is serialized
as Flower does it. Printed are the seconds of each phase, medians over the rounds and
clients, and by how much the memory of each side grows at most.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/cost_of_size.py --json FILE

On a machine shared with other work `--clock cpu`, the default, counts the seconds of
the processor; on one with a GPU use `--clock wall`, as the processor waits for it.
With `--simulation` whole simulations run instead, on Ray, with the same models: seconds
of a round, and those of the processor in all processes together. FedAvg asks for
replies every 3 seconds, so its seconds are multiples of that.
"""

import argparse
import json
import os
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

PATTERNS = {"flasc": "flasc-flwr", "plain": "FlowerTune"}
SIDES = ("server_seconds", "client_seconds")


def main() -> None:
    options = arguments()
    rows = []
    for repeat in range(options.repeats):
        for size in options.sizes:
            for pattern in options.patterns:
                about = vars(options) | {"parameters": int(size), "pattern": pattern}
                row = simulated(about) if options.simulation else measured(about)
                rows.append(row | {"repeat": repeat, "load": os.getloadavg()[0]})
                print(json.dumps(rows[-1]), flush=True)
                if options.json:
                    options.json.write_text("\n".join(map(json.dumps, rows)) + "\n")
    print()
    for line in table(rows):
        print(line)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e6, 1e7, 4e7])
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=[*PATTERNS])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="after the first")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--density", type=lambda t: float(Fraction(t)), default=1 / 4)
    parser.add_argument("--values", default="bfloat16")
    parser.add_argument("--optimizer", default="sgd", help="of the server")
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--simulation", action="store_true")
    parser.add_argument("--actors", type=int, default=1, help="clients at a time")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(about: dict[str, Any]) -> dict[str, Any]:
    """Run the two sides in processes of their own, which share what was imported."""
    from size_sides import run_server

    context = get_context("fork")
    result, sender = context.Pipe(duplex=False)

    def run() -> None:
        sender.send(run_server(argparse.Namespace(**about)))

    process = context.Process(target=run)
    process.start()
    sender.close()  # so that a server that fails ends this, too
    row: dict[str, Any] = result.recv()
    process.join()
    return row


def simulated(about: dict[str, Any]) -> dict[str, Any]:
    from size_simulation import simulate

    return simulate(about)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as tables, each figure the least over the repeats."""
    lines = []
    if "server_seconds" not in rows[0]:
        lines += ["| parameters | pattern | round, s | CPU, s | peak, MB |", "|---" * 5]
        for row in rows:
            lines.append(
                f"| {row['parameters']:,} | {PATTERNS[row['pattern']]} "
                f"| {row['round_seconds']:.2f} | {row['round_cpu']:.2f} "
                f"| {row['megabytes']:,.0f} |"
            )
        return [line + "|" * line.startswith("|-") for line in lines]
    best: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        key = row["parameters"], row["pattern"]
        if key not in best or row["round_seconds"] < best[key]["round_seconds"]:
            best[key] = row
    heads = " | ".join(f"{size:,} {PATTERNS[name]}" for size, name in best)
    lines += [f"| | {heads} |", "|---" * (len(best) + 1) + "|"]

    def line(name: str, cells: list[float], form: str) -> None:
        shown = " | ".join("" if cell is None else format(cell, form) for cell in cells)
        lines.append(f"| {name} | {shown} |")

    for side in SIDES:
        phases = {phase for row in best.values() for phase in row[side]}
        who = side.removesuffix("_seconds")
        for phase in sorted(phases):
            cells = [row[side].get(phase) for row in best.values()]
            known = [1e3 * c if c is not None else None for c in cells]
            line(f"{who}: {phase}, ms", known, ",.0f")
        sums = [1e3 * sum(row[side].values()) for row in best.values()]
        line(f"**{who}, ms**", sums, ",.0f")
    whole = [row["round_seconds"] for row in best.values()]
    line("**round of all clients, s**", whole, ".2f")
    for key in ("server_mb", "client_mb"):
        line(f"{key.split('_')[0]}, MB", [row[key] for row in best.values()], ",.0f")
    for key in ("bytes_down", "bytes_up"):
        line(key.replace("_", " "), [row[key] for row in best.values()], ",.0f")
    return lines


if __name__ == "__main__":
    main()
