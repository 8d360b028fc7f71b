"""What the checks of the cost model count, and at two ranks what they find."""

from __future__ import annotations

import socket

import pytest

from benchmarks.results import markdown
from benchmarks.scaling import measure
from benchmarks.scaling_loader import Loading
from benchmarks.scaling_ranks import Measured
from benchmarks.scaling_report import Case, Checked, report
from benchmarks.scaling_table import row, seconds, situation_of
from benchmarks.wire import bytes_sent
from launcher.planning.traffic import Collective


def test_the_kernel_counts_what_this_process_sends():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
        server.accept()[0] as far,
    ):
        before = bytes_sent()
        near.sendall(b"x" * 12_345)
        received = 0
        while received < 12_345:
            received += len(far.recv(65_536))
        far.sendall(b"y" * 55)
        assert bytes_sent() - before == 12_345 + 55


def test_a_model_read_off_at_two_sizes():
    start = situation_of("flan-t5-xl")
    small, large = (row("flan-t5-xl", gpus, start) for gpus in (8, 4096))
    assert small.limits.bottleneck == "decode"
    assert small.moved[-1][1] == "compute"
    assert large.limits.parts["compute"] == pytest.approx(small.limits.parts["compute"])
    assert large.limits.parts["wire"] > small.limits.parts["wire"]
    assert large.limits.checkpoint.best < small.limits.checkpoint.best
    few, many = (seconds("flan-t5-xl", gpus, start) for gpus in (8, 4096))
    assert few[1] <= few[0] <= many[0] < 2 * few[0]
    assert many[1] == pytest.approx(few[1])


def checked(sent: int, calls: int, saved: int) -> Checked:
    """A case of which 1,000 bytes in two calls and a checkpoint of 500 bytes were modelled."""
    found = Measured(sent, {"all-reduce": calls}, step=1.0, checkpoint=saved, disk=1.0)
    gradients = Collective("gradients", "all-reduce", 2, 1000.0)
    return Checked(Case(2, 1), (found, found), (gradients,), 1000.0, 500.0, 1.0, 0.5, 0.1)


@pytest.mark.parametrize(
    ("sent", "calls", "saved", "met"),
    [
        (1005, 2, 505, [True, True, True]),
        (1020, 2, 505, [False, True, True]),
        (1005, 3, 505, [True, False, True]),
        (1005, 2, 550, [True, True, False]),
    ],
)
def test_a_model_that_is_off_is_said_to_be(sent, calls, saved, met):
    loaded = [Loading(1, 0.1, 0.1, 10.0, 9.0)]
    result = report([checked(sent, calls, saved)], loaded, checkpoint_bound=0.02)
    assert [claim.met for claim in result.claims] == met
    assert "| 2 | 1 | LLM frozen, fp32 |" in markdown(result)


@pytest.mark.slow
def test_bytes_calls_and_checkpoints_at_two_ranks(tmp_path):
    """Bytes and calls are decided by shapes alone, so their bounds are tight (1 %, and equal)."""
    result = measure(tmp_path, quick=True)
    assert [claim.what for claim in result.claims if not claim.met] == []
    assert len(result.data["cases"]) == 4
