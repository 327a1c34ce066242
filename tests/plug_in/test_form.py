"""Which arrays of a record go into its payload, and which travel whole."""

import numpy as np
import pytest
from flwr.app import Array

from flasc_flwr.flower.transport import rule
from flasc_flwr.flower.transport.rule import in_payload
from flasc_flwr.flower.wire import array_record


@pytest.fixture(autouse=True)
def every_size(monkeypatch, request):
    """Do not let the arrays of these tests travel whole for being few."""
    if "a_few_entries" not in request.function.__name__:
        monkeypatch.setattr(rule, "_FEWEST", 0)


def record(**shapes):
    return array_record(
        {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    )


def names(record, **named):
    return [list(record)[index] for index in in_payload(record, **named)]


def test_arrays_of_fewer_than_two_axes_travel_whole():
    model = record(kernel=(3, 3, 8, 8), matrix=(8, 8), bias=(8,), scale=())
    assert names(model) == ["kernel", "matrix"]


def test_without_matrices_only_a_flattened_model_does_not_travel_whole():
    assert names(record(flat=(5000,), bias=(4096,), scale=())) == ["flat"]
    assert names(record(mean=(30,), variance=(30,))) == []
    assert names(record(matrix=(2, 2), flat=(5000,))) == ["matrix"]


def test_statistics_travel_whole_wherever_they_lie():
    model = record(weight=(8, 8), running_mean=(8, 8), inv_freq=(2, 4))
    assert names(model) == ["weight"]
    assert names(record(**{"rotary.inv_freq": (9000,)})) == []


def test_statistics_and_what_is_not_finite_travel_whole():
    model = record(**{"norm.running_mean": (3, 3), "weight": (3, 3), "mask": (3, 3)})
    model["mask"] = Array(np.triu(np.full((3, 3), -np.inf, np.float32)))
    model["low"] = Array(np.full((3, 3), np.finfo(np.float32).min))
    assert names(model) == ["weight"]
    assert names(model, sparse=["*"]) == ["norm.running_mean", "weight"]


def test_names_and_patterns_add_to_the_rule():
    model = record(**{"a.weight": (4, 4), "a.bias": (4,), "b.weight": (4, 4)})
    assert names(model, whole=["b.*"]) == ["a.weight"]
    assert names(model, sparse=["*.bias"]) == ["a.weight", "a.bias", "b.weight"]
    assert names(model, whole=["b.*"], sparse=["*"]) == ["a.weight", "a.bias"]


def test_arrays_that_are_not_floating_point_travel_whole():
    arrays = array_record(
        {
            "int": np.ones((3, 3), np.int64),
            "bool": np.ones((3, 3), bool),
            "complex": np.ones((3, 3), np.complex64),
            "swapped": np.ones((3, 3), ">f4"),
            "empty": np.ones((0, 3), np.float32),
            "float16": np.ones((3, 3), np.float16),
        }
    )
    arrays["foreign"] = Array("float32", (3, 3), "somebody.else", b"xyz")
    assert names(arrays) == ["float16"]


def test_whole_numbers_that_rounding_would_change_travel_whole():
    index = np.arange(300.0).reshape(15, 20)
    arrays = array_record(
        {
            "index": index,
            "mean": index + 1e-9,  # what Flower's mean makes of integers
            "small": index - 150,  # each has a bfloat16
            "large": index + 0.1,
            "ones": np.ones((3, 3), np.float32),
        }
    )
    assert names(arrays) == ["small", "large", "ones"]
    assert names(arrays, sparse=["ind*"]) == ["index", "small", "large", "ones"]


@pytest.mark.filterwarnings("error")
def test_float16_arrays_are_read_without_a_warning():
    assert names(array_record({"half": np.ones((8, 8), np.float16)})) == ["half"]


def test_a_record_of_a_few_entries_travels_whole_unless_its_arrays_are_named():
    assert names(record(coef=(3, 4), intercept=(3,))) == []
    assert names(record(coef=(3, 4), intercept=(3,)), sparse=["coef"]) == ["coef"]
    assert names(record(a=(512, 1), b=(1, 512))) == ["a", "b"]
