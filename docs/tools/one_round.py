"""Draw one round with the numbers of a run: figures/one-round.svg from one-round.json.

``python docs/tools/one_round.py`` draws it again; with the folder of a run and a round
behind it, from that run's numbers. Colours are those of Okabe and Ito, which readers
with any kind of colour vision can tell apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "figures"
BLUE, RED, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#d9dee3"
_CELLS = 24
# Which of the 24 cells stand for the largest quarter, down and up.
_DOWN, _UP = (1, 4, 9, 13, 14, 20), (2, 4, 10, 13, 17, 22)
_KEYS = (
    *("round", "kept_down", "kept_up", "payload_bytes_down", "payload_bytes_up"),
    *("message_bytes_down", "message_bytes_up", "dense_float32_bytes", "accuracy"),
)


def numbers(run: Path, round: int) -> dict[str, object]:
    """Return what the drawing shows of a round of a run."""
    lines = (run / "history.jsonl").read_text().splitlines()
    row = next(r for r in map(json.loads, lines) if r["round"] == round)
    summary = json.loads((run / "summary.json").read_text())
    command = json.loads((FIGURES / "one-round.json").read_text())["command"]
    return {
        "command": command,
        "entries": summary["adapter_parameters"],
        "clients": row["replies"],
    } | {key: row[key] for key in _KEYS}


def draw(of: dict) -> str:
    """Return the drawing as SVG, 480 wide: readable on a telephone, too."""
    n, clients = of["entries"], of["clients"]
    down, up = round(of["kept_down"] * n), round(of["kept_up"] * n)
    upload = round(of["payload_bytes_up"] / clients)
    sent = of["message_bytes_down"] + of["message_bytes_up"]
    dense = of["dense_float32_bytes"]
    steps = [
        (
            "1  The server holds a dense vector",
            f"{n:,} entries, {4 * n:,} bytes in float32",
            _strip(range(_CELLS), BLUE),
        ),
        (
            "2  Download: the largest quarter of it",
            f"{down:,} entries = {of['payload_bytes_down'] // clients:,} bytes, "
            f"encoded once for {clients} clients",
            _strip(_DOWN, BLUE),
        ),
        (
            "3  Each client trains all of the adapter",
            "What did not arrive is zero at the start, and is trained, too",
            _strip(range(_CELLS), RED),
        ),
        (
            "4  Upload: the largest quarter of the update",
            f"{up:,} entries = {upload:,} bytes on average",
            _strip(_UP, RED),
        ),
        (
            "5  The server steps its dense vector",
            f"mean of {clients} updates, AdamW: {100 * of['accuracy']:.1f} % "
            f"after round {of['round']}",
            _strip(range(_CELLS), GREEN),
        ),
    ]
    parts, y = [], 16
    for number, (title, words, strip) in enumerate(steps):
        parts.append(_step(y, title, words, strip))
        if number < len(steps) - 1:
            parts.append(_arrow(y + 84, number))
        y += 112
    parts.append(_bars(y - 4, sent, dense))
    return _SVG.format(height=y + 76, body="\n".join(parts))


def _strip(filled, colour: str) -> str:
    return "".join(
        f'<rect x="{17 * i}" width="14" height="16" rx="2" '
        f'fill="{colour if i in filled else GRAY}"/>'
        for i in range(_CELLS)
    )


def _step(y: int, title: str, words: str, strip: str) -> str:
    return (
        f'<g transform="translate(12 {y})">'
        '<rect width="456" height="84" rx="8" fill="#fff" stroke="#9aa5b1"/>'
        f'<text x="14" y="25" class="title">{title}</text>'
        f'<text x="14" y="46">{words}</text>'
        f'<g transform="translate(25 57)">{strip}</g></g>'
    )


def _arrow(y: int, number: int) -> str:
    """Draw an arrow; a dot runs along it, unless the reader wants less motion."""
    return (
        f'<path d="M240 {y + 2}v20m-6-7l6 8 6-8" fill="none" stroke="#444" '
        'stroke-width="2"/>'
        f'<circle class="dot" style="animation-delay:{number}s" cx="240" '
        f'cy="{y + 2}" r="4"/>'
    )


def _bars(y: int, sent: int, dense: int) -> str:
    width = 456 * sent / dense
    return (
        f'<g transform="translate(12 {y})">'
        f'<text y="14">Dense float32, this round: {dense / 1e6:.2f} MB</text>'
        f'<rect y="20" width="456" height="12" rx="2" fill="{GRAY}"/>'
        f'<text y="50" class="title">Sent, whole messages: {sent / 1e6:.2f} MB, '
        f"{dense / sent:.1f} times less</text>"
        f'<rect y="56" width="{width:.0f}" height="12" rx="2" fill="{BLUE}"/></g>'
    )


_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 {height}" \
font-family="system-ui, Arial, sans-serif" font-size="14.5" fill="#1b1b1b">
<title>One round of FLASC in five steps</title>
<style>
.title {{ font-weight: 600; font-size: 16px; }}
.dot {{ fill: #1b1b1b; opacity: 0; animation: 4s linear infinite run; }}
@keyframes run {{ 0% {{ opacity: 1; }}
  20% {{ opacity: 1; transform: translateY(18px); }}
  21%, 100% {{ opacity: 0; transform: translateY(18px); }} }}
@media (prefers-reduced-motion: reduce) {{ .dot {{ animation: none; }} }}
</style>
<rect width="480" height="{height}" rx="8" fill="#f6f8fa"/>
{body}
</svg>
"""


def main() -> None:
    """Draw the figure; take the numbers from a run first, if one is named."""
    file = FIGURES / "one-round.json"
    if len(sys.argv) > 1:
        shown = numbers(Path(sys.argv[1]), int(sys.argv[2]))
        file.write_text(json.dumps(shown, indent=2) + "\n")
    svg = draw(json.loads(file.read_text()))
    (FIGURES / "one-round.svg").write_text(svg)


if __name__ == "__main__":
    main()
