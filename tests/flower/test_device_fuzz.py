"""Whatever a server sends, flasc_mod trains on it or raises one short error."""

import json
import tracemalloc

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flasc_flwr.core.codec import PayloadError, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.device_limits import RefusedDownloadError
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.wire import payload_of, payload_record
from tests.flower.apps import client_app
from tests.flower.device import ask, content, download, huge_payload, order, vector
from tests.payload_bytes import resealed

QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(
    "entries",
    [
        {"upload-density": -0.5, "value-format": "float32"},
        {"upload-density": "1/4", "value-format": "float32"},
        {"upload-density": float("nan"), "value-format": "float32"},
        {"upload-density": 10**400, "value-format": "float32"},
        {"upload-density": 0.5},
        {"upload-density": 0.5, "value-format": "float32", "upload-bytes": "4000"},
        {"upload-density": 0.5, "value-format": "float32", "upload-bytes": -4000},
        {"upload-density": 0.5, "value-format": "float128"},
        {"upload-density": 0.5, "value-format": "x" * 10_000_000},
        {"value-format": "float32"},
        {"trains": ["A"] * 2_000_000, "support-only": True},
        {"trains": ["A", "C"], "support-only": True},
        {"trains": "A", "support-only": True},
        {"trains": ["A"], "support-only": 1},
        {"trains": ["A"]},
        {"init-seed": -1},
        {"init-seed": -(10**5000)},
        {"clip-norm": 0.0},
        {"clip-norm": float("inf")},
        {"on-support": "yes"},
        {"prescribed": ["everything"]},
        {"sparse/arrays": [-1]},
        {"sparse/arrays": [1, 1]},
        {"sparse/arrays": list(range(70_000))},
        {"sparse/" + "\n" * 100_000: "x"},
        {"\x1b[2J" + "x" * 1_000_000: b"1" * 1_000_000},
    ],
    ids=range(26),
)
def test_instructions_that_make_no_sense_give_one_short_error(entries):
    with pytest.raises(ValueError, match="'flasc' record cannot be read") as raised:
        Instructions.from_record(ConfigRecord(entries))
    text = str(raised.value)
    assert len(text) < 500
    assert text.isprintable()


KEYS = st.sampled_from(
    ["upload-density", "upload-bytes", "value-format", "trains", "support-only",
     "init-seed", "clip-norm", "on-support", "upload-segment", "prescribed",
     "sparse/arrays", "sparse/"]
) | st.text(max_size=8)  # fmt: skip
SCALARS = [
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=8),
    st.sampled_from(["float32", "A", "B", "head", "upload-density"])
    | st.text(max_size=8),
]
VALUES = st.one_of(*SCALARS, *(st.lists(scalar, max_size=6) for scalar in SCALARS))
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "upload-density": st.floats(0.01, 1.0),
        "upload-bytes": st.integers(1, 2**63 - 1),
        "value-format": st.sampled_from(["float32", "int4"]),
        "trains": st.lists(st.sampled_from(["A", "B", "head", "other"]), max_size=4),
        "support-only": st.booleans(),
        "init-seed": st.integers(0, 2**63 - 1),
        "clip-norm": st.floats(1e-3, 1e3),
        "on-support": st.booleans(),
        "prescribed": st.lists(st.just("upload-density"), max_size=1),
        "sparse/arrays": st.lists(st.integers(0, 4), max_size=4, unique=True),
    },
)


@QUICK
@given(likely=LIKELY, more=st.dictionaries(KEYS, VALUES, max_size=2))
def test_any_record_gives_instructions_or_a_value_error(likely, more):
    record = ConfigRecord(likely | more)
    try:
        read = Instructions.from_record(record)
    except ValueError as error:
        assert str(error).isprintable()
        return
    again = Instructions.from_record(read.to_record())
    if read.density is not None:
        assert 0 < read.density <= 1
    assert again == read


@QUICK
@given(likely=LIKELY, more=st.dictionaries(KEYS, VALUES, max_size=1))
def test_any_instructions_train_or_raise_a_value_error(likely, more):
    message = content(download(0.5), ConfigRecord(likely | more))
    try:
        ask(message, client_app(lambda arrays, *_: arrays))
    except ValueError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 500


TENSOR = st.tuples(
    st.sampled_from(["a", "b", "x.lora_A.y", "x.lora_B.y"])
    | st.text("\n\x1b", max_size=3),
    st.lists(st.integers(0, 40) | st.sampled_from([1 << 20, 1 << 47]), max_size=4),
    st.sampled_from(["float16", "float32", "float64"]),
    st.sampled_from(["A", "B", "head", "other"]),
)


@st.composite
def payloads(draw):
    """Return bytes, or a payload with a layout of any shapes, or a mutated one."""
    kind = draw(st.sampled_from(["bytes", "shapes", "mutated"]))
    if kind == "bytes":
        return draw(st.binary(max_size=300))
    if kind == "shapes":
        rows = draw(st.lists(TENSOR, min_size=1, max_size=4, unique_by=lambda t: t[0]))
        layout = Layout.from_json(json.dumps(rows))
        if layout.size > 100_000:
            return huge_payload(rows[0][1]) if layout.size < 2**63 else b""
        values = vector(layout.size) * np.float32(draw(st.sampled_from([1, 1e9])))
        sparse = SparseVector.of_dense(values)
        return encode(sparse, layout=layout, carry_layout=True)
    data = bytearray(payload_of(download(draw(st.sampled_from([0.01, 0.3, 1.0])))))
    for at, byte in draw(
        st.lists(
            st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=3
        )
    ):
        data[at] = byte
    return resealed(data) if draw(st.booleans()) else bytes(data)


@QUICK
@given(payload=payloads(), seeded=st.booleans())
def test_any_payload_gives_arrays_or_a_payload_error_in_bounded_memory(payload, seeded):
    seen = []
    app = client_app(lambda arrays, *_: seen.append(arrays) or arrays)
    control = order(init_seed=1 if seeded else None)
    most = 200_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ask(content(payload_record(payload), control), app, **{"max-entries": most})
    except (PayloadError, RefusedDownloadError) as error:
        assert str(error).isprintable()
        assert len(str(error)) < 500
        assert not seen
    finally:
        used = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert used < 20 * 4 * most + 100 * len(payload)
    for arrays in seen:
        assert all(np.isfinite(array).all() for array in arrays.values())
