"""Every call of the runtime's is one that NVIDIA's own ``cuda-bindings`` takes; without a driver it does no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stagekit_tensorrt import cuda as cuda_module
from stagekit_tensorrt.builder.gpu import gpus
from stagekit_tensorrt.cuda import Cuda
from stagekit_tensorrt.engine import TrtEngine

from stagekit.graph import TensorSpec
from stagekit.target import HostBuffer

from .fake_cuda import CopyKind, FakeEvent, FakeRuntime, FakeVendorEngine, Stream

SPEC = TensorSpec("x", "float32", (1, 2))


class Recorded(FakeRuntime):
    """Writes calls down."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, ...]] = {}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any) -> Any:
            self.calls[name] = arguments
            return found(*arguments)

        return call


def test_the_real_bindings_take_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="NOT TESTED: cuda-bindings is not installed")
    if gpus():
        pytest.skip("with a driver the calls would have effects; the tests for a GPU make them")
    recorded = Recorded()
    monkeypatch.setattr(cuda_module, "runtime_module", lambda: recorded)
    engine = TrtEngine(
        FakeVendorEngine(recorded, lambda x: x), None, None, Cuda(0), "engine", (SPEC,), (SPEC.renamed("y"),), (1,)
    )
    lane = engine.lane()
    (output,) = lane.submit([HostBuffer(SPEC, np.ones((1, 2), np.float32))], 1).wait()
    assert output.to_host().shape == (1, 2)
    lane.submit([output], 1).done()
    engine.close()
    as_real = {Stream: lambda _: real.cudaStream_t(0), FakeEvent: lambda _: real.cudaEvent_t(0)}
    assert {"cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaStreamWaitEvent", "cudaEventQuery"} <= {
        *recorded.calls
    }
    for name, arguments in recorded.calls.items():
        given = [
            getattr(real.cudaMemcpyKind, a.name) if isinstance(a, CopyKind) else as_real.get(type(a), lambda a: a)(a)
            for a in arguments
        ]
        status, *_ = getattr(real, name)(*given)
        assert status == real.cudaError_t.cudaErrorInsufficientDriver, name
    for constant in ("cudaStreamNonBlocking", "cudaEventDisableTiming"):
        assert getattr(real, constant) == getattr(FakeRuntime, constant)
    for fake, theirs in ((FakeRuntime.cudaError_t, real.cudaError_t), (CopyKind, real.cudaMemcpyKind)):
        assert all(int(getattr(theirs, member.name)) == member.value for member in fake)
