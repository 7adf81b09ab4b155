"""The runtime's rules about memory and order, on a CUDA that does everything as late as it may."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_tensorrt import cuda as cuda_module
from stagekit_tensorrt.cuda import SPARE_BLOCKS, Cuda
from stagekit_tensorrt.engine import CALLS_IN_FLIGHT, TrtEngine
from stagekit_tensorrt.kernel_cache import KernelCache

from stagekit.errors import EngineError, UsageError
from stagekit.graph import TensorSpec
from stagekit.target import HostBuffer

from .fake_cuda import CopyKind, FakeRuntime, FakeVendorEngine

X = TensorSpec("x", "float32", ("batch", 3, 4))
Y = TensorSpec("y", "float32", ("batch", 3, 4))
Array = np.ndarray[Any, Any]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr(cuda_module, "runtime_module", lambda: fake)
    return fake


@pytest.fixture
def cuda(runtime: FakeRuntime) -> Cuda:
    return Cuda(0)


@pytest.fixture
def load(runtime: FakeRuntime, cuda: Cuda) -> Callable[..., TrtEngine]:
    def make(function: Callable[[Array], Array] = lambda x: 2 * x + 1) -> TrtEngine:
        return TrtEngine(FakeVendorEngine(runtime, function), None, None, cuda, "engine", (X,), (Y,), (1, 2))

    return make


def frame(value: float, batch: int = 1) -> HostBuffer:
    spec = X.bind(batch=batch)
    return HostBuffer(spec, np.full(spec.concrete(), value, np.float32))


def test_submitting_computes_nothing_and_waiting_does(load: Any) -> None:
    lane = load().lane()
    call = lane.submit([frame(3, 2)], 2)
    assert not call.done()
    (output,) = call.wait()
    assert call.done()
    assert output.spec == Y.bind(batch=2)
    assert (output.to_host() == 7).all()


def test_a_chain_of_engines_copies_once_in_and_once_out(load: Any, runtime: FakeRuntime) -> None:
    lanes = [load(lambda x, k=k: x + k).lane() for k in (1, 10, 100)]
    value: Any = frame(0)
    for lane in lanes:
        (value,) = lane.submit([value], 1).outputs
    assert (value.to_host() == 111).all()
    assert runtime.copies == [CopyKind.cudaMemcpyHostToDevice, CopyKind.cudaMemcpyDeviceToHost]


def test_held_outputs_are_not_overwritten(load: Any) -> None:
    lane = load().lane()
    held = [lane.submit([frame(k)], 1).wait()[0] for k in range(20)]
    assert [b.to_host()[0, 0, 0] for b in held] == [2 * k + 1 for k in range(20)]


def test_what_a_call_under_way_reads_is_not_reused(load: Any) -> None:
    """Inputs and intermediate outputs are dropped at once; nothing has been computed yet."""
    first, second = load(lambda x: x + 1).lane(), load(lambda x: 10 * x).lane()
    calls = []
    for k in range(CALLS_IN_FLIGHT):
        (middle,) = first.submit([frame(k)], 1).outputs
        calls.append(second.submit([middle], 1))
        del middle
        gc.collect()
    assert [c.wait()[0].to_host()[0, 0, 0] for c in calls] == [10 * (k + 1) for k in range(CALLS_IN_FLIGHT)]


def test_calls_whose_results_nobody_wants_still_do_no_harm(load: Any) -> None:
    lane = load().lane()
    for k in range(3):
        lane.submit([frame(k)], 1)
    gc.collect()
    (output,) = lane.submit([frame(5)], 1).wait()
    assert (output.to_host() == 11).all()


def test_a_lane_waits_for_its_oldest_call_when_too_many_are_under_way(load: Any) -> None:
    lane = load().lane()
    calls = [lane.submit([frame(k)], 1) for k in range(CALLS_IN_FLIGHT + 2)]
    assert [call.done() for call in calls] == [True] * 2 + [False] * CALLS_IN_FLIGHT


def test_a_lane_that_nobody_holds_finishes_its_calls_first(load: Any) -> None:
    call = load().lane().submit([frame(1)], 1)
    gc.collect()
    assert call.done()
    assert (call.wait()[0].to_host() == 3).all()


def test_lanes_do_not_wait_for_each_other(load: Any) -> None:
    engine = load()
    lanes = engine.lane(), engine.lane()
    slow, quick = (lane.submit([frame(k)], 1) for k, lane in enumerate(lanes, start=1))
    quick.wait()
    assert not slow.done()
    assert (slow.wait()[0].to_host() == 3).all()


def test_memory_does_not_grow_with_calls(load: Any, runtime: FakeRuntime) -> None:
    lane = load().lane()
    for k in range(20):
        lane.submit([frame(k)], 1).wait()[0].to_host()
    before = len(runtime.blocks)
    for k in range(100):
        lane.submit([frame(k)], 1).wait()[0].to_host()
    assert len(runtime.blocks) == before


def test_a_pool_gives_back_what_it_cannot_use(cuda: Cuda, runtime: FakeRuntime) -> None:
    before = len(runtime.blocks)
    blocks = [cuda.device.take(64) for _ in range(SPARE_BLOCKS + 3)]
    del blocks
    gc.collect()
    assert len(runtime.blocks) == before + SPARE_BLOCKS


def test_spare_blocks_go_when_there_is_no_memory_left(cuda: Cuda, runtime: FakeRuntime) -> None:
    blocks = [cuda.device.take(64) for _ in range(4)]
    del blocks
    gc.collect()
    runtime.memory = sum(block.nbytes for block in runtime.blocks.values())
    held = cuda.device.take(256)
    assert held.nbytes == 256
    with pytest.raises(EngineError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        cuda.device.take(runtime.memory)


def test_no_error_is_left_for_others_to_find(load: Any, cuda: Cuda, runtime: FakeRuntime) -> None:
    """CUDA keeps the last one for a thread, and calls that are under way count as one."""
    lane = load().lane()
    assert not lane.submit([frame(1)], 1).done()
    assert runtime.last_error.name == "cudaSuccess"
    with pytest.raises(EngineError):
        cuda.device.take(runtime.memory + 1)
    assert runtime.last_error.name == "cudaSuccess"


def test_what_a_refused_call_had_begun_is_over_when_its_blocks_go_back(load: Any, runtime: FakeRuntime) -> None:
    lane = load().lane()
    lane.context.refuses = True
    with pytest.raises(EngineError, match="refused the call"):
        lane.submit([frame(1)], 1)
    assert [stream.done for stream in runtime.streams.values()] == [len(s.work) for s in runtime.streams.values()]
    assert runtime.copies == [CopyKind.cudaMemcpyHostToDevice]
    lane.context.refuses = False
    assert (lane.submit([frame(1)], 1).wait()[0].to_host() == 3).all()


def test_outputs_outlive_their_engine_and_are_read_only(load: Any) -> None:
    engine = load()
    (output,) = engine.lane().submit([frame(1)], 1).wait()
    engine.close()
    del engine
    gc.collect()
    array = output.to_host()
    del output
    gc.collect()
    assert (array == 3).all()
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


def test_a_closed_engine_refuses_calls_and_may_be_closed_again(load: Any) -> None:
    engine = load()
    lane = engine.lane()
    call = lane.submit([frame(1)], 1)
    engine.close()
    engine.close()
    assert call.done()
    with pytest.raises(EngineError, match="closed"):
        lane.submit([frame(1)], 1)
    with pytest.raises(EngineError, match="closed"):
        engine.lane()


def test_inputs_of_the_wrong_form_are_refused(load: Any) -> None:
    lane = load().lane()
    with pytest.raises(UsageError, match="batches of 1, 2, not 3"):
        lane.submit([frame(1)], 3)
    with pytest.raises(UsageError, match="expected 1 inputs"):
        lane.submit([], 1)
    with pytest.raises(UsageError, match=r"'x': expected float32 \[1, 3, 4\], got float32 \[2, 3, 4\]"):
        lane.submit([frame(1, 2)], 1)


def test_a_failing_cuda_call_is_an_error_that_names_it(runtime: FakeRuntime) -> None:
    with pytest.raises(EngineError, match="cudaSetDevice failed: cudaErrorInvalidValue"):
        Cuda(1)


def compiling(runtime: FakeRuntime, cuda: Cuda, kernels: KernelCache, *names: str) -> list[str]:
    """Opens engines that need these kernels, runs and closes them; returns what had to be compiled."""
    vendors = [FakeVendorEngine(runtime, lambda x: x + 1, name) for name in names]
    for vendor in vendors:
        engine = TrtEngine(vendor, None, None, cuda, "engine", (X,), (Y,), (1,), kernels)
        (output,) = engine.lane().submit([frame(1)], 1).wait()
        assert (output.to_host() == 2).all()
        engine.close()
    assert len({id(cache) for vendor in vendors for cache in vendor.caches}) == 1, "engines share one cache"
    return vendors[0].caches[0].compiled


def test_compiled_kernels_are_shared_and_kept_for_the_next_process(
    runtime: FakeRuntime, cuda: Cuda, tmp_path: Path
) -> None:
    path = tmp_path / "kernels" / "gpu.cache"
    assert compiling(runtime, cuda, KernelCache(path), "conv", "gemm", "conv") == ["conv", "gemm"]
    assert [file.name for file in path.parent.iterdir()] == ["gpu.cache"]
    assert compiling(runtime, cuda, KernelCache(path), "gemm", "pool") == ["pool"]
    assert compiling(runtime, cuda, KernelCache(path), "conv", "pool", "gemm") == []


def test_a_foreign_file_of_kernels_counts_for_nothing_and_is_replaced(
    runtime: FakeRuntime, cuda: Cuda, tmp_path: Path
) -> None:
    path = tmp_path / "gpu.cache"
    path.write_bytes(b"of another driver")
    assert compiling(runtime, cuda, KernelCache(path), "conv") == ["conv"]
    assert path.read_bytes() == b"kernels:conv"


def test_kernels_that_cannot_be_kept_are_no_error(runtime: FakeRuntime, cuda: Cuda, tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("a file where the folder should be")
    assert compiling(runtime, cuda, KernelCache(tmp_path / "kernels" / "gpu.cache"), "conv") == ["conv"]
