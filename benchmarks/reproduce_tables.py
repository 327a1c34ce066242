"""Tables in Markdown, as docs/results.md has them."""

from collections.abc import Sequence
from statistics import fmean


def percent(values: Sequence[float]) -> str:
    """Return the mean in per cent, and the values where there are several."""
    each = ", ".join(f"{value:.1%}"[:-1] for value in values)
    mean = f"{fmean(values):.1%}"[:-1]
    return f"{mean} ({each})" if len(values) > 1 else mean


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Print a table."""
    print(f"**{title}**\n")
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()
