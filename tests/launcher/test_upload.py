"""Steps prepared ahead: the inputs that the step would make, the same order, state and errors."""

from __future__ import annotations

import json
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch

from dataloaders.assemble import StepBatch
from dataloaders.batch import Batch
from dataloaders.errors import DataError
from dataloaders.fetch import Frames, HostDecoder
from dataloaders.prefetch import Prefetcher
from launcher.config import RunConfig
from launcher.training.step import to_inputs
from launcher.training.upload import Upload, UploadedBatch, build_upload
from tests.dataloaders.loader_fixtures import COUNTS, SIZE, assert_same, make, take
from tests.dataloaders.shard_fixtures import pack_clips
from tests.launcher.conftest import MakeConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_clips(tmp_path_factory.mktemp("data"), COUNTS).folder


def config(make_config: MakeConfig, precision: str) -> RunConfig:
    return make_config(engine={"precision": precision, "micro_batch": 2})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_inputs_are_those_the_step_would_make(
    clips: Path, make_config: MakeConfig, precision: str
):
    run = config(make_config, precision)
    upload = Upload(
        CPU, getattr(torch, {"fp32": "float32", "fp16": "float16"}.get(precision, "bfloat16"))
    )
    with make(clips, micro_batch=2) as loader:
        step = next(loader)
    prepared = upload.prepare(step)
    upload.receive(prepared)
    assert (prepared.epoch, prepared.step, prepared.num_pairs) == (0, 0, step.num_pairs)
    for micro, plain in zip(prepared.micro, step.micro, strict=True):
        assert isinstance(micro, UploadedBatch)
        found, wanted = micro.model_inputs(), to_inputs(plain.model_inputs(), CPU, run)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            other = found[name]
            assert (other is None) == (tensor is None)
            if other is not None:
                assert other.dtype == tensor.dtype
                assert torch.equal(other, tensor)
                # The step finds nothing to do, and on a CPU nothing was copied but to cast it.
                assert to_inputs({name: other}, CPU, run)[name] is other
                own = getattr(plain, name)
                assert (own.data_ptr() == other.data_ptr()) == (own.dtype == other.dtype)
        assert micro.pixel_values is None  # the host's frames are let go
        assert micro.meta is plain.meta
        assert micro.positions is plain.positions


def test_a_run_needs_no_stage_where_the_inputs_are_right(make_config: MakeConfig):
    assert build_upload(config(make_config, "fp32")) is None
    assert build_upload(config(make_config, "bf16")) is not None


def as_loaded(step: StepBatch) -> StepBatch:
    """The step as the loader would have handed it over without a stage."""
    micro: list[Batch] = []
    for each in step.micro:
        inputs = each.model_inputs()
        fields = {name: getattr(each, name) for name in Batch.__dataclass_fields__}
        micro.append(Batch(**{**fields, "pixel_values": inputs["pixel_values"]}))
    return StepBatch(step.epoch, step.step, micro)


def test_order_position_and_resuming_are_the_loaders(clips: Path):
    with make(clips, micro_batch=2) as loader:
        plain = take(loader, 12)
    with make(clips, micro_batch=2, stage=Upload(CPU, torch.float32)) as loader:
        found, states = [], []
        for _ in range(12):
            states.append(json.loads(json.dumps(loader.state_dict())))
            found.append(as_loaded(next(loader)))
        assert_same(found, plain)
        loader.load_state_dict(states[5])
        assert_same([as_loaded(step) for step in take(loader, 3)], plain[5:8])
    with make(clips, micro_batch=2, stage=Upload(CPU, torch.float32)) as other:
        other.load_state_dict(states[9])
        assert_same([as_loaded(step) for step in take(other, 3)], plain[9:])


class Watched(Upload):
    """Notes what was prepared and received, fails at a step, says when it has prepared one."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__(CPU, torch.bfloat16)
        self.prepared: list[int] = []
        self.received: list[int] = []
        self.threads: set[str] = set()
        self._fails_at = fails_at
        self.second = threading.Event()

    def prepare(self, batch):
        if batch.step == self._fails_at:
            raise MemoryError("no room on the device")
        self.prepared.append(batch.step)
        self.threads.add(threading.current_thread().name)
        if batch.step == 1:
            self.second.set()
        return super().prepare(batch)

    def receive(self, batch):
        self.received.append(batch.step)
        super().receive(batch)


def test_one_step_ahead_in_another_thread_and_the_position_waits(clips: Path):
    stage = Watched()
    with make(clips, micro_batch=2, stage=stage, prefetch_steps=4) as loader:
        next(loader)
        assert stage.second.wait(30)
        assert stage.prepared == [0, 1]  # not more, however many are decoded
        assert stage.received == [0]
        assert loader.position == (0, 1)
        assert loader.last_wait_s > 0
        assert all(name.startswith("stage-") for name in stage.threads)


def test_what_fails_in_the_stage_is_raised_in_its_turn_and_again(clips: Path):
    with make(clips, micro_batch=2, stage=Watched(fails_at=2)) as loader:
        assert [step.step for step in take(loader, 2)] == [0, 1]
        for _ in range(2):
            with pytest.raises(MemoryError, match="no room on the device"):
                next(loader)
        assert loader.position == (0, 2)


def test_bad_data_end_it_as_without_a_stage(clips: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(self, *_, **__):
        raise ValueError("no such clip")

    monkeypatch.setattr(HostDecoder, "__call__", broken)
    with make(clips, stage=Watched()) as loader, pytest.raises(DataError, match="no such clip"):
        next(loader)


def test_closing_while_the_stage_waits_for_a_clip_ends_all_threads(
    clips: Path, monkeypatch: pytest.MonkeyPatch
):
    reached, gate = threading.Event(), threading.Event()
    real = HostDecoder.__call__
    before = set(threading.enumerate())

    def slow(self, *args, **changes) -> Frames:
        reached.set()
        assert gate.wait(30)
        return real(self, *args, **changes)

    filled = threading.Event()
    fill = Prefetcher._fill

    def fill_and_tell(self: Prefetcher) -> None:
        fill(self)
        if self._depth == 3:
            filled.set()

    monkeypatch.setattr(HostDecoder, "__call__", slow)
    monkeypatch.setattr(Prefetcher, "_fill", fill_and_tell)
    stage = Watched()
    loader = make(clips, stage=stage, decode_threads=1, prefetch_steps=4)
    raised: list[BaseException] = []

    def wait_for_a_step() -> None:
        try:
            next(loader)
        except CancelledError as error:
            raised.append(error)

    waiting = threading.Thread(target=wait_for_a_step)
    waiting.start()
    assert reached.wait(30)
    assert filled.wait(30)
    cancelled = threading.Event()
    _, parts = loader._prefetchers[0]._pending[-1]
    parts[-1].add_done_callback(lambda _: cancelled.set())
    closing = threading.Thread(target=loader.close)
    closing.start()
    assert cancelled.wait(30)
    gate.set()
    for thread in (closing, waiting):
        thread.join(30)
        assert not thread.is_alive()
    assert raised
    assert not stage.prepared
    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if thread.name.startswith(("stage", "data"))]
    monkeypatch.setattr(HostDecoder, "__call__", real)
    with loader:
        assert as_loaded(next(loader)).micro[0].pixels.shape[-1] == SIZE
