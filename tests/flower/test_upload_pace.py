"""``upload-bytes = "auto"``: uploads that fit into seconds at a device's bandwidth."""

import logging
import math
import re

import numpy as np
import pytest
from flwr.app import Message, MessageType, RecordDict

from flasc_flwr import Flasc
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.upload_pace import FIRST_BYTES, UploadPace
from flasc_flwr.flower.clients.paces import expected_upload
from flasc_flwr.flower.clients.upload_speeds import UploadSpeeds
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.wire import array_record, message_bytes
from tests.flower.apps import RecordingGrid, client_app
from tests.flower.fleet import Clock
from tests.flower.test_byte_budgets import adapter, lengths, run

AUTO = {"upload-bytes": "auto"}


def test_a_pace_is_bandwidth_times_seconds():
    pace = UploadPace.of(AUTO | {"upload-seconds": 20, "upload-mbits": 0.25})
    assert pace.most_bytes() == pace.most_bytes(1e9) == 20 * 31_250
    measured = UploadPace.of(AUTO | {"upload-seconds": 10.0})
    assert measured.most_bytes(5_000.0) == 50_000
    assert measured.most_bytes() == FIRST_BYTES
    assert measured.most_bytes(0.001) > 0  # no payload has no bytes at all


@pytest.mark.parametrize("key", ["upload-seconds", "upload-mbits"])
@pytest.mark.parametrize("value", [0, -1, math.inf, 1e300, "fast"])
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} must be a number in"):
        DeviceLimits.of(AUTO | {key: value})


def test_a_device_holds_itself_to_the_bandwidth_that_it_was_given():
    own = AUTO | {"upload-seconds": 2, "upload-mbits": 0.008}
    assert DeviceLimits.of(own).upload_bytes == 2_000
    assert DeviceLimits.of(AUTO).upload_bytes == "auto"
    budget = Budget(upload_density=0.25).limited_by(own)
    assert budget == Budget(upload_density=1.0, upload_bytes=2_000 // 16 * 16)


def test_uploads_fit_into_the_seconds_at_a_given_bandwidth():
    own = AUTO | {"upload-seconds": 2, "upload-mbits": 0.008}
    strategy, grid = run([own, {}])
    first, other = lengths(grid.up, 1), lengths(grid.up, 2)
    assert all(1_900 <= size <= 2_000 for size in first)
    assert min(other) > 2_000
    assert not any(row["failures"] for row in strategy.state.history)


class SlowUploads(RecordingGrid):
    """Replies seem to have been made earlier: by clocks that are off, and slow links.

    Parameters
    ----------
    bandwidth : float
        Bytes per second of every device.
    """

    def __init__(self, *arguments, bandwidth, **settings):
        super().__init__(*arguments, **settings)
        self.bandwidth = bandwidth

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        for reply, size in zip(replies, message_bytes(replies), strict=True):
            reply.metadata.created_at -= 1_000 + size / self.bandwidth
        return replies


def slow(node_configs, rounds=4, **settings):
    app, count = client_app(), len(node_configs)
    grid = SlowUploads(app, count, node_configs=node_configs, bandwidth=1_000.0)
    strategy = Flasc(**{"fraction_train": 1.0} | settings)
    strategy.start(grid, array_record(adapter()), rounds, timeout=10.0)
    return grid


def test_uploads_fit_into_the_seconds_at_the_measured_bandwidth():
    grid = slow([AUTO | {"upload-seconds": 4}, {"upload-density": 1.0}])
    auto, whole = lengths(grid.up, 1), lengths(grid.up, 2)
    assert auto[0] > 9_000  # all of it: nothing is known yet
    # 4 s at 1,000 bytes a second; the introduction took a little of them, too.
    assert all(3_500 <= size <= 4_600 for size in auto[1:])
    assert min(whole) > 9_000


@pytest.mark.parametrize("known", [{"upload-mbits": 0.008}, {}])
def test_an_upload_that_cannot_make_the_time_out_is_warned_of_once(known, caplog):
    with caplog.at_level(logging.INFO, "flwr"):
        slow([{"upload-density": 1.0} | known, {}], values="float32")
    texts = [record.getMessage() for record in caplog.records]
    assert not any("Client 1:" in text for text in texts)
    (warning,) = [text for text in texts if "round-timeout is 10 s" in text]
    said_so = r"Client 0: an upload of about 0.02 MB takes 2[34] s at its 0.00[78]"
    assert re.match(said_so, warning)
    (said,) = [text for text in texts if "round-timeout (10 s) needs" in text]
    assert "needs 0.0189 Mbit/s" in said


def test_a_budget_that_makes_the_time_out_is_not_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "flwr"):
        slow([AUTO | {"upload-seconds": 4, "upload-mbits": 0.008}] * 2)
    assert "round-timeout" not in caplog.text


def reply(created_at, size):
    question = Message(RecordDict(), 7, MessageType.TRAIN)
    arrays = array_record({"a": np.zeros(size // 4, np.float32)})
    content = RecordDict({"arrays": arrays})
    made = Message(content, reply_to=question)
    made.metadata.created_at = created_at
    return made


def test_a_speed_is_measured_from_the_least_delay():
    clock = Clock()
    clock.now = 5_000.0
    speeds = UploadSpeeds(clock)
    speeds.arrived(7, reply(3_998.0, 10))  # its clock is 1,000 s behind, 2 s of polling
    assert speeds.of(7) is None
    speeds.arrived(7, reply(3_988.0, 100_000))
    assert speeds.of(7) == pytest.approx(10_000, rel=0.01)
    # One that waited for another, and one with nonsense for a time, change little.
    speeds.arrived(7, reply(3_988.0, 100_000))
    speeds.arrived(7, reply(3_898.0, 100_000))
    speeds.arrived(7, reply(math.nan, 100_000))
    assert speeds.of(7) == pytest.approx(10_000, rel=0.01)
    # What comes at once is not infinitely fast: Flower polls.
    speeds.arrived(8, reply(5_000.0, 100_000))
    assert speeds.of(8) == pytest.approx(100_000, rel=0.01)


@pytest.mark.parametrize("values", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("density", [1 / 16, 1.0])
def test_the_expected_upload_is_about_what_is_sent(values, density):
    _, grid = run([{"upload-density": density}] * 2, rounds=1, values=values)
    size = max(lengths(grid.up))
    budget = Budget(upload_density=density)
    assert 0.65 * size < expected_upload(budget, 7_000, values) < 1.5 * size
