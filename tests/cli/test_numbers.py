"""Numbers of the command line: none that means nothing is taken."""

import re

import click
import pytest
import typer

from flasc_flwr.app.cli import app
from flasc_flwr.app.cli.numbers import Number, number, whole
from flasc_flwr.app.runs.link_times import LATENCY, MEGABITS

_ALL = typer.main.get_command(app).commands
NUMBERS = {
    (name, option): option.type
    for name, command in _ALL.items()
    for option in command.params
    if isinstance(option.type, Number)
}
PLAIN = click.types.IntParamType | click.types.FloatParamType
ANY_INTEGER = {("network", "seed")}
"""Seeds of a draw: an integer is as good as another."""


def test_every_number_has_a_range():
    plain = {
        (name, option.name)
        for name, command in _ALL.items()
        for option in command.params
        if isinstance(
            option.type, click.types.IntParamType | click.types.FloatParamType
        )
    }
    assert plain == ANY_INTEGER and len(NUMBERS) > 25


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "-1", "1e308", "", "1_000x"])
def test_what_is_not_allowed_is_refused_with_what_is(word):
    for (name, option), kind in NUMBERS.items():
        with pytest.raises(click.BadParameter) as caught:
            kind.convert(word, option, None)
        said = caught.value.message
        assert re.fullmatch(
            rf"must be an? {re.escape(kind.name)}, got '{word}'", said
        ), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["compare", "--target=nan"],
            "'--target': must be a number in [0, 1], got 'nan'",
        ),
        (["watch", "--every=nan"], "'--every': must be a number in [0.1, 86400], got"),
        (
            ["noise", "--epsilon=1e308"],
            "'--epsilon': must be a number in (0, 1e6], got",
        ),
        (
            ["search", "--at-once=0"],
            "'--at-once': must be an integer from 1 to 1000, go",
        ),
    ],
)
def test_a_command_says_which_option_it_is(call, words, said):
    result = call(*words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_the_ends_of_a_range_are_what_they_say():
    open_, closed = number("(0, 1]"), whole(1, 3)
    assert open_.convert("1", None, None) == 1.0
    assert [closed.convert(word, None, None) for word in "123"] == [1, 2, 3]
    for kind, words in (
        (open_, ["0", "1.01"]),
        (closed, ["0", "4", "1.0", "9" * 99]),
    ):
        for word in words:
            with pytest.raises(click.BadParameter):
                kind.convert(word, None, None)


def test_links_take_what_the_options_take():
    options = {option.name: kind for (_, option), kind in NUMBERS.items()}
    assert options["down"].name in MEGABITS.allowed
    assert options["latency"].name == options["compute"].name
    assert options["latency"].name in LATENCY.allowed
