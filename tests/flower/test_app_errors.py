"""What leaves a device of an exception of its app."""

import io
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, MessageType, RecordDict

from flasc_flwr.core.ranges import integer
from flasc_flwr.flower.app_errors import app_errors
from flasc_flwr.flower.error_reason import reason_of
from flasc_flwr.flower.local_grid import LocalGrid

SECRET = "Anna Smith, born 1981-03-02"
HERE = __name__


def said(function, package=HERE, private=tuple):
    with pytest.raises(ValueError) as raised, app_errors(package, private):
        function()
    assert type(raised.value) is ValueError
    assert raised.value.__cause__ is not None  # for the log of the device
    return str(raised.value)


def own_sentence():
    raise ValueError("row 3 of column 'label' must be a number, got text")


def own_sentence_of_another_kind():
    raise OSError("the data has moved")


def test_row_10_own_sentences_leave_as_they_are():
    assert said(own_sentence) == "row 3 of column 'label' must be a number, got text"
    assert said(own_sentence_of_another_kind) == "OSError: the data has moved"
    # In another package it is a library's.
    assert said(own_sentence, "flasc_flwr").startswith("ValueError in the app: see the")
    refused = said(lambda: integer(1).require("lora-rank", 0), "flasc_flwr")
    assert refused == "lora-rank must be an integer >= 1, got 0"


@pytest.mark.parametrize(
    "function",
    [
        lambda: {}[SECRET],
        lambda: [].index(SECRET),
        lambda: int(SECRET),
        lambda: float(SECRET),
        lambda: Path(SECRET).read_text(),
        lambda: getattr(io, SECRET),
        lambda: np.array([SECRET], np.float32),
        lambda: np.asarray([SECRET]).astype(int),
        lambda: io.StringIO(SECRET).fileno(),
        lambda: SECRET.encode().decode("utf-16"),
    ],
)
def test_row_10_of_other_exceptions_only_kind_and_place_leave(function):
    text = said(function)
    assert "Anna" not in text and "1981" not in text
    assert "see the log of this device" in text


def test_row_10_the_place_is_the_innermost_function_of_the_package():
    def read_a_label():
        return int(SECRET)

    assert f"ValueError in {HERE}.read_a_label, line " in said(read_a_label)


def test_row_10_the_path_of_the_data_does_not_leave():
    def refuse():
        raise ValueError("data-path must be a folder, got '/home/anna/x.csv' (x.csv)")

    text = said(refuse, private=lambda: ["/home/anna/x.csv", "x.csv", "a"])
    assert text == "data-path must be a folder, got '...' (...)"


def test_row_10_what_the_machine_lacks_leaves():
    def no_memory():
        raise MemoryError("12 GB")

    def no_module():
        import no_such_module  # noqa: F401

    assert said(no_memory, "other") == "MemoryError: 12 GB"
    assert "No module named 'no_such_module'" in said(no_module, "other")


def test_row_10_the_text_is_one_short_printable_line():
    def forge():
        raise ValueError("a\nINFO: all is well\x1b[2J" + "x" * 5000)

    text = said(forge)
    assert text.isprintable() and len(text) <= 300


TRACEBACK = (
    "<class 'flwr.clientapp.client_app.ClientAppException'>:<'"
    "\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=12)\n  File x.py, line 3\n"
    "flwr.clientapp.client_app.ClientAppException: \n"
    "Exception ClientAppException occurred. Message: row 3 must be a number'>"
)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("<class 'ValueError'>:<'row 3 must be a number'>", "row 3 must be a number"),
        (TRACEBACK, "row 3 must be a number"),
        ("<class 'ZeroDivisionError'>:<'division'>", "ZeroDivisionError: division"),
        ("<class 'a.b.OwnError'>:<'it's <b'>", "OwnError: it's <b"),
        ("<class 'a.b.OwnError'>:<''>", "error code 2"),
        ("plain text", "plain text"),
        ("<class 'unfinished", "<class 'unfinished"),
        ("", "error code 2"),
    ],
)
def test_row_16_the_reason_is_what_the_app_said(sent, reason):
    LocalGrid(lambda message, context: message, 1)  # gives messages an identity
    question = Message(RecordDict(), 1, MessageType.TRAIN)
    question.metadata.__dict__["_message_id"] = "1"
    reply = Message(Error(code=2, reason=sent), reply_to=question)
    assert reason_of(reply) == reason
