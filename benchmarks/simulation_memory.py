"""A simulation's memory: over its rounds, and by the number of its clients.

Of all processes together, on the digits task with two workers, two clients in a round.
Run: PYTHONPATH=. python benchmarks/simulation_memory.py
"""

import statistics
import tempfile
from pathlib import Path

from tests.end_to_end.memory import Memory
from tests.end_to_end.processes import Flower, results


def watched(folder: Path, clients: int, rounds: int) -> list[tuple[int, float]]:
    """Simulate small trainings, two in a round; return round and megabytes."""
    flower = Flower(folder / "flwr")
    output = folder / "runs"

    def rounds_done() -> int:
        return sum(len(f.open().readlines()) for f in output.glob("*/history.jsonl"))

    config = (
        f"num-server-rounds={rounds} fraction-train={2 / clients} lora-rank=4 "
        f"partitioner='iid' local-epochs=1 evaluate-every={rounds} "
        f"output-dir='{output}'"
    )
    federation = (
        f"num-supernodes={clients} init-args-num-cpus=2 client-resources-num-cpus=1 "
        "client-resources-num-gpus=0.0"
    )
    options = ("--simulation", "--disable-runtime-dependency-installation")
    with (
        flower.superlink(*options) as connection,
        Memory(flower.superlink_pid, moment=rounds_done) as memory,
    ):
        said = flower.run(
            *("flwr", "run", ".", connection, "--stream", "--run-config", config),
            *("--federation-config", federation),
        )
    _, summary, history = results(output)
    assert summary["ended"] == "all rounds done", said
    assert [row["replies"] for row in history] == [0] + [2] * rounds
    return memory.samples


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        print("| clients | peak |\n|---|---|")
        for clients in (2, 20, 500):
            samples = watched(Path(scratch) / str(clients), clients, rounds=4)
            print(f"| {clients} | {max(mb for _, mb in samples):,.0f} MB |", flush=True)
        samples = watched(Path(scratch) / "rounds", clients=4, rounds=100)
    # Rows are counted with that of round 0. Medians: a sample may catch a process
    # that just begins or ends.
    early = statistics.median(mb for rows, mb in samples if 11 <= rows <= 25)
    late = statistics.median(mb for rows, mb in samples if 86 <= rows <= 100)
    print(f"\nafter round 10: {early:,.0f} MB, before round 100: {late:,.0f} MB")


if __name__ == "__main__":
    main()
