"""A checkpoint: the state of a run as bytes, and back."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.json_lines import as_json as text_of
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.optimizers import OptimizerState
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.feedback.fleet_memory import FleetMemory
from flasc_flwr.flower.state.hashed_file import HashedFile
from flasc_flwr.flower.state.run_state import RunState

_MAGIC = b"flasc-checkpoint-1\n"
_NO_FLEET: dict[str, Any] = {"receipts": {}, "streams": []}
_DIGEST = hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and which one can."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after one of its rounds.

    Attributes
    ----------
    round : int
        The last round that is in it.
    settings : dict[str, Any]
        Settings of the run.
    state : RunState
        State of the run.
    """

    round: int
    settings: dict[str, Any]
    state: RunState

    def to_bytes(self) -> bytes:
        """Return the bytes that :meth:`write_to` writes."""
        file = io.BytesIO()
        self.write_to(file)
        return file.getvalue()

    def write_to(self, file: BinaryIO) -> None:
        """Write the file: magic, checksum, content.

        Array by array: the whole content would take as much memory as the server
        vector and all moments.

        Parameters
        ----------
        file : BinaryIO
            An empty file, open for writing.
        """
        file.write(_MAGIC + bytes(_DIGEST))
        content = HashedFile(file)
        np.savez(content, allow_pickle=False, **self._arrays())
        file.seek(len(_MAGIC))
        file.write(content.digest.digest())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that is stored, as arrays by name."""
        state = self.state
        arrays: dict[str, NDArray[Any]] = {"vector": state.vector}
        arrays |= {f"moment/{n}": m for n, m in state.optimizer.moments.items()}
        arrays |= {f"merged/{n}": m for n, m in state.merged.items()}
        arrays |= {f"bases/{n}": b for n, b in state.bases.items()}
        fleet, remembered = state.fleet.stored()
        arrays |= {f"fleet/{name}": array for name, array in remembered.items()}
        if state.selected_from is not None:
            arrays["selected_from"] = state.selected_from
        supports = list(state.supports.items())
        arrays |= {f"support/{i}": p for i, (_, p) in enumerate(supports)}
        known = {
            "round": self.round,
            "settings": self.settings,
            "layout": state.layout.to_json(),
            "step": state.optimizer.step,
            "part_steps": state.optimizer.part_steps,
            "supports": [list(key) for key, _ in supports],
            "ranks": state.ranks,
            "privacy": state.privacy,
            "fleet": fleet,
            "history": state.history,
            "traffic": [asdict(sent) for sent in state.traffic.sent],
        }
        text = text_of(known).encode()
        arrays["known"] = np.frombuffer(text, np.uint8)
        return arrays

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Rebuild a checkpoint from :meth:`to_bytes`.

        Raises
        ------
        CheckpointError
            If it is not a checkpoint, or damaged.
        """
        if not data.startswith(_MAGIC):
            raise CheckpointError("it does not start like a checkpoint")
        start = len(_MAGIC) + _DIGEST
        digest = hashlib.sha256(memoryview(data)[start:]).digest()
        if digest != data[len(_MAGIC) : start]:
            raise CheckpointError("its checksum is wrong")
        content = io.BytesIO(data)  # no copy: it shares the bytes
        content.seek(start)
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        known = json.loads(arrays["known"].tobytes())
        supports = {
            (int(size), float(density)): arrays[f"support/{i}"]
            for i, (size, density) in enumerate(known["supports"])
        }
        layout = Layout.from_json(known["layout"])
        state = RunState(
            layout=layout,
            vector=arrays["vector"],
            optimizer=OptimizerState(
                known["step"], _under("moment/", arrays), known["part_steps"]
            ),
            supports=supports,
            selected_from=arrays.get("selected_from"),
            ranks=known["ranks"],
            privacy=known["privacy"],
            merged=_under("merged/", arrays),
            bases=_under("bases/", arrays),
            traffic=_traffic(known["traffic"]),
            fleet=FleetMemory.restored(
                known.get("fleet", _NO_FLEET), _under("fleet/", arrays), layout
            ),
            history=known["history"],
        )
        return cls(known["round"], known["settings"], state)

    def copy(self) -> Checkpoint:
        """Return a copy that a run may change: only arrays are shared.

        Steps make new arrays, and leave the old ones as they are.
        """
        state = self.state
        rounds = {round: dict(sums) for round, sums in state.traffic.rounds.items()}
        return replace(
            self,
            state=replace(
                state,
                optimizer=replace(state.optimizer),
                supports=dict(state.supports),
                ranks=dict(state.ranks),
                rank_nodes=dict(state.rank_nodes),
                merged=dict(state.merged),
                bases=dict(state.bases),
                privacy=deepcopy(state.privacy),
                traffic=Traffic(rounds),
                fleet=state.fleet.copy(state.layout),
                history=list(state.history),
            ),
        )

    def require(self, settings: Mapping[str, Any], layout: Layout) -> None:
        """Check that a run with `settings` and `layout` may resume from here.

        Raises
        ------
        CheckpointError
            Names the first difference.
        """
        self.require_settings({**dict.fromkeys(self.settings), **settings})
        for ours, theirs in zip(
            layout.tensors, self.state.layout.tensors, strict=False
        ):
            if ours != theirs:
                raise CheckpointError(
                    f"the checkpoint's adapter has {theirs}, this run's {ours}"
                )
        if len(layout.tensors) != len(self.state.layout.tensors):
            raise CheckpointError(
                f"the checkpoint's adapter has {len(self.state.layout.tensors)} "
                f"tensors, this run's {len(layout.tensors)}"
            )

    def require_settings(self, settings: Mapping[str, Any]) -> None:
        """Check that `settings`, all of a run's or some, equal the checkpoint's.

        Raises
        ------
        CheckpointError
            Names the first difference.
        """
        # In JSON types, as they were written.
        wanted = json.loads(text_of(dict(settings)))
        for key, ours in sorted(wanted.items()):
            theirs = self.settings.get(key)
            if ours != theirs:
                raise CheckpointError(
                    f"the checkpoint has {key} = {theirs!r}, this run has {ours!r}: "
                    "a run resumes with the settings that it started with"
                )


def as_json(value: Any) -> Any:
    """Return settings in JSON types: dataclasses by field, functions by name."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, frozenset):
        return sorted(str(one) for one in value)
    return getattr(value, "__name__", value)


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _traffic(entries: list[dict[str, Any]]) -> Traffic:
    traffic = Traffic()
    for entry in entries:
        direction = Direction(entry["direction"])
        traffic.record(Sent(**{**entry, "direction": direction}))
    return traffic
