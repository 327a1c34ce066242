import numpy as np
import pytest

from flasc_flwr.core.layout import Layout, Role


def arrays():
    rng = np.random.default_rng(0)
    return {
        "layer.lora_A.weight": rng.standard_normal((2, 5)).astype(np.float32),
        "layer.lora_B.weight": rng.standard_normal((3, 2)).astype(np.float16),
        "classifier.bias": rng.standard_normal(4),
    }


def test_flatten_and_unflatten_are_inverse():
    given = arrays()
    layout = Layout.of(given)
    back = layout.unflatten(layout.flatten(given))
    assert layout.size == 10 + 6 + 4
    assert list(back) == list(given)
    for name, array in given.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_allclose(back[name], array, rtol=1e-7)


def test_the_vector_is_the_arrays_in_layout_order():
    given = arrays()
    vector = Layout.of(given).flatten(dict(reversed(given.items())))
    expected = np.concatenate([a.ravel() for a in given.values()]).astype(np.float32)
    np.testing.assert_array_equal(vector, expected)
    assert vector.dtype == np.float32


def test_roles_follow_pefts_names():
    roles = [tensor.role for tensor in Layout.of(arrays()).tensors]
    assert roles == [Role.A, Role.B, Role.HEAD]
    plain = Layout.of({"conv.weight": np.zeros(3, np.float32)})
    assert plain.tensors[0].role == Role.OTHER


def test_roles_can_be_given():
    layout = Layout.of({"conv.weight": np.zeros(3)}, roles={"conv.weight": Role.HEAD})
    assert layout.tensors[0].role == Role.HEAD


def test_json_gives_the_same_layout_back():
    layout = Layout.of(arrays())
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {**a, "classifier.bias": a["classifier.bias"].astype(np.float32)},
        lambda a: {**a, "classifier.bias": np.zeros(5)},
        lambda a: dict(reversed(a.items())),
        lambda a: {name.replace("layer", "other"): v for name, v in a.items()},
    ],
)
def test_fingerprints_tell_layouts_apart(change):
    assert Layout.of(arrays()).fingerprint != Layout.of(change(arrays())).fingerprint


def test_missing_and_unknown_names_are_named():
    layout = Layout.of(arrays())
    given = arrays()
    given["stranger"] = given.pop("classifier.bias")
    with pytest.raises(ValueError, match=r"missing \['classifier.bias'\].*stranger"):
        layout.flatten(given)


def test_another_shape_is_refused():
    layout = Layout.of(arrays())
    with pytest.raises(ValueError, match=r"'classifier.bias' has shape \(5,\)"):
        layout.flatten({**arrays(), "classifier.bias": np.zeros(5)})


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"needs \(20,\)"):
        Layout.of(arrays()).unflatten(np.zeros(19, np.float32))


def test_integers_and_nothing_are_refused():
    with pytest.raises(ValueError, match="int64, allowed are float16"):
        Layout.of({"steps": np.zeros(2, np.int64)})
    with pytest.raises(ValueError, match="at least one array"):
        Layout.of({})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "[1]",
        '[["a",[1],"float32"]]',
        '[["a",[-1],"float32","A"]]',
        '[["a",[true],"float32","A"]]',
        '[["a",[1],"object","A"]]',
        '[["a",[1],"float32","C"]]',
        '[["a",[1],"float32","A"],["a",[1],"float32","A"]]',
        "[" * 100_000,
    ],
)
def test_what_is_not_a_layout_is_refused(text):
    with pytest.raises(ValueError, match="not a layout|invalid shape|has dtype|Role"):
        Layout.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        '[["a",["%s"],"float32","A"]]' % ("x" * 100_000),
        '[["%s",[-1],"float32","A"]]' % ("x" * 100_000),
        '[["a",[1],"float32","%s"]]' % ("x" * 100_000),
    ],
    ids=["shape", "name", "role"],
)
def test_what_a_refused_layout_says_is_cut(text):
    with pytest.raises(ValueError, match="not a layout") as refused:
        Layout.from_json(text)
    assert len(str(refused.value)) < 400


def test_positions_are_counted_by_tensor():
    layout = Layout.of({"a": np.zeros(3), "b": np.zeros((2, 2)), "c": np.zeros(5)})
    assert layout.counts(np.array([0, 2, 3, 11])).tolist() == [2, 1, 1]
    assert layout.counts(np.array([], np.int64)).tolist() == [0, 0, 0]
