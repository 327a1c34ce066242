"""A conversation with what a run has trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TextStreamer

from flasc_flwr.app.runs.saved_adapter import trained_task
from flasc_flwr.app.tasks.instruction.chat_template import ChatTemplate
from flasc_flwr.app.tasks.instruction.chat_tokens import ends, prompt_tokens
from flasc_flwr.app.tasks.instruction.conversations import (
    ASSISTANT,
    SYSTEM,
    USER,
    Messages,
)
from flasc_flwr.app.tasks.instruction.generation import generate, room_for_prompts
from flasc_flwr.app.tasks.tokenizer import load_tokenizer

_UNLIMITED = 10**9


class Talk:
    """A conversation that remembers what was said.

    Parameters
    ----------
    folder : Path
        A run folder, or the folder of one of its adapters.
    overrides : dict[str, Any]
        Settings that override the run's.
    new : int
        The most tokens of an answer.
    system : str
        A system message, or none if empty.

    Raises
    ------
    ValueError
        If it is not a run of task ``instruction``, or has no adapter.
    """

    def __init__(
        self, folder: Path, overrides: dict[str, Any], *, new: int, system: str = ""
    ) -> None:
        # Nothing is scored here.
        self._task = trained_task(folder, overrides | {"evaluate-generate": 0})
        config = self._task.config
        if config.task != "instruction":
            raise ValueError(
                f"RUN must be a run of task 'instruction', got one of {config.task!r}"
            )
        self._chat = ChatTemplate.of(load_tokenizer(config), config)
        self._new = new
        room = room_for_prompts(self._task.model, new, "--tokens")
        self._room = _UNLIMITED if room is None else room
        self._start: Messages = [{"role": SYSTEM, "content": system}] if system else []
        self._said: Messages = []

    def forget(self) -> None:
        """Start the conversation from its beginning."""
        self._said = []

    def ask(self, text: str, show: Callable[[str], None]) -> str:
        """Return the answer to a text; `show` gets its pieces as they are written.

        Where the conversation becomes longer than what the model can read, its oldest
        turns are left out.

        Raises
        ------
        RefusedError
            If the chat template refuses the conversation.
        """
        chat = self._chat
        said: Messages = [*self._said, {"role": USER, "content": text}]
        prompt = prompt_tokens(chat, [*self._start, *said], self._room)
        (written,) = generate(
            self._task.model,
            [prompt],
            self._task.config,
            new=self._new,
            ends=ends(chat),
            pad=int(chat.tokenizer.pad_token_id),
            streamer=_Pieces(chat.tokenizer, show),
        )
        answer = str(chat.tokenizer.decode(written, skip_special_tokens=True))
        # An empty message is one that templates refuse.
        self._said = [*said, {"role": ASSISTANT, "content": answer or "..."}]
        return answer


class _Pieces(TextStreamer):
    """Hands over words as they are written."""

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._show(text)
