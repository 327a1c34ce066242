"""What the log says about each record, and about names that fit nothing."""

import numpy as np
import pytest

from flasc_flwr.flower.wire import PAYLOAD, array_record
from tests.plug_in.numpy_app import apart, client_app, mixed, run_wrapped
from tests.plug_in.runs import LOSSLESS


def fates(logged):
    return [line[1:] for line in logged().splitlines() if line.startswith("\tRecord ")]


def test_fault_12_the_first_round_says_what_becomes_of_each_record(logged):
    arrays = mixed()
    arrays["weight"][0, 0] = 1
    arrays["causal"] = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    arrays["norm.running_mean"] = np.ones((1, 12), np.float32)
    settings = {"whole": ["dou*"], "sparse": ["weight", "half"]}
    run_wrapped(arrays=array_record(arrays), rounds=2, **settings)
    assert fates(logged) == [
        "Record 'arrays': 2 of 9 arrays sparse (73.4% of the entries); whole: "
        "2 not floating point (counter, mask); "
        "2 of fewer than two axes (bias, variance); 1 named in whole (double); "
        "1 not finite (causal); 1 statistics of a layer (norm.running_mean)"
    ]


def test_fault_12_a_record_that_travels_as_it_is_is_said_to_be_untouched(logged):
    whole = {"scale": np.ones(3, np.float32), "steps": np.array(3)}
    run_wrapped(client_app(lambda a, *_: a), arrays=array_record(whole))
    run_wrapped(**LOSSLESS)
    assert fates(logged) == [
        "Record 'arrays': untouched; 1 of fewer than two axes (scale); "
        "1 not floating point (steps)",
        "Record 'arrays': untouched, as nothing may be lost",
    ]


def test_fault_12_names_in_the_log_are_few_short_and_printable(logged):
    names = ["\x1b[2J" + "x" * 500, *(f"bias{i}" for i in range(20))]
    arrays = {name: np.ones(3, np.float32) for name in names}
    arrays["weight"] = np.ones((8, 8), np.float32)
    run_wrapped(
        client_app(lambda a, *_: a), arrays=array_record(arrays), upload_density=1
    )
    (line,) = fates(logged)
    assert line.isprintable() and len(line) < 250
    assert "21 of fewer than two axes ( [2Jxxx" in line.replace("([2J", "( [2J")
    assert line.endswith("bias0, bias1, ...)")


@pytest.mark.parametrize("key", ["whole", "sparse"])
@pytest.mark.parametrize("name", ["wieght", "head.*"])
def test_fault_12_a_name_that_fits_no_array_is_refused_at_the_first_round(key, name):
    with pytest.raises(ValueError) as refused:
        run_wrapped(**{key: ["double", name]})
    said = str(refused.value)
    assert said.startswith(f"{key} must name arrays that are sent, got {name!r}; ")
    assert all(known in said for known in mixed())
    if name == "wieght":
        assert "there are 7: weight, " in said


def test_a_word_about_replies_that_fits_no_record_is_refused_at_the_first_round():
    known = {"arrays": "weights", "arr*": "updates"}
    run_wrapped(replies=known)
    with pytest.raises(ValueError) as refused:
        run_wrapped(replies={**known, "arays": "updates"})
    assert str(refused.value) == (
        "replies must name ArrayRecords that are sent, got 'arays'; there are 1: arrays"
    )


def test_names_are_checked_again_when_other_arrays_are_started_with():
    transport, grid, _ = run_wrapped(sparse=["weight"], whole=["half"])
    with pytest.raises(ValueError, match="whole must name arrays that are sent"):
        transport.start(grid, array_record({"weight": mixed()["weight"]}), 1)


def test_a_name_with_brackets_names_its_array():
    name = "['dense']['kernel']"
    arrays = {name: np.ones((8, 8), np.float32), "other": np.ones((8, 8), np.float32)}
    for key, sparse in (("sparse", 1), ("whole", 0)):
        settings = {"sparse": ["other"]} | {key: [name]}
        _, grid, _ = run_wrapped(arrays=array_record(arrays), **settings)
        beside = set(apart(grid.down[0].content["arrays"])) - {PAYLOAD}
        assert (f"0/{name}" not in beside) == sparse


def test_fault_12_whole_adds_to_the_rule_and_sparse_names_exceptions():
    def beside(**settings):
        _, grid, _ = run_wrapped(**settings)
        return set(apart(grid.down[0].content["arrays"])) - {PAYLOAD}

    by_rule = beside()
    assert by_rule == {"0/counter", "2/bias", "4/mask", "6/variance"}
    assert beside(whole=["half"]) == by_rule | {"5/half"}
    named = ["weight", "double", "bias"]
    assert beside(sparse=named, whole=["half"]) == {
        *by_rule - {"2/bias"},
        "5/half",
    }
