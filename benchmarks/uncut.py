"""One graph on a vendor's own API, in the configurations that the API offers: what stages are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.cpu import usable_cores
from stagekit.graph import Graph
from stagekit.target import Profile

Run = Callable[[], Any]
"""One inference of a fixed frame; returns the first output."""


def configurations(graph: Graph, profile: Profile, frame: np.ndarray[Any, Any], folder: Path) -> dict[str, Run]:
    """A way to run the graph for each configuration of the vendor's API that could be the best."""
    path = folder / "uncut.onnx"
    graph.save(path)
    return {"onnxruntime": onnxruntime, "openvino": openvino}[profile.target](path, profile, frame)


def onnxruntime(path: Path, profile: Profile, frame: np.ndarray[Any, Any]) -> dict[str, Run]:
    """With threads that spin for work, that sleep, that spin within a call alone, and that have cores of their own as
    well, as an engine's do; bound inputs and outputs."""
    import onnxruntime as ort
    from stagekit_onnxruntime.target import pinned

    threads = profile.count("threads", usable_cores())

    def opened(spinning: str, stop: str = "0", pinning: str = "") -> Run:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if pinning:
            options.add_session_config_entry("session.intra_op_thread_affinities", pinning)
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        options.add_session_config_entry("session.force_spinning_stop", stop)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(frame))
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")

        def run() -> Any:
            session.run_with_iobinding(binding)
            return binding.get_outputs()[0]

        return run

    found = {"spinning": opened("1"), "sleeping": opened("0"), "stopping": opened("1", stop="1")}
    pinning = pinned(threads)
    return found | ({"pinned": opened("1", stop="1", pinning=pinning)} if pinning else {})


def openvino(path: Path, profile: Profile, frame: np.ndarray[Any, Any]) -> dict[str, Run]:
    """In the caller's thread, pinned to cores and not, or on the stream's; the shape fixed, the input shared."""
    import openvino as ov
    from stagekit_openvino.core import shared_core
    from stagekit_openvino.target import HINTS, floats

    core = shared_core(ov)
    model = core.read_model(str(path))
    model.reshape({model.inputs[0]: ov.PartialShape(list(frame.shape))})

    def opened(pinning: bool = False, stream: bool = False) -> Run:
        properties = {
            "INFERENCE_PRECISION_HINT": HINTS[floats(profile)],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": profile.count("threads", usable_cores()),
            "ENABLE_CPU_PINNING": pinning,
            "EXCLUSIVE_ASYNC_REQUESTS": stream,
        }
        request = core.compile_model(model, "CPU", properties).create_infer_request()
        request.set_input_tensor(0, ov.Tensor(frame, shared_memory=True))

        def run() -> Any:
            if stream:
                request.start_async()
                request.wait()
            else:
                request.infer()
            return request.get_output_tensor(0)

        return run

    return {"pinned": opened(pinning=True), "stream": opened(stream=True), "free": opened()}
