"""TensorRT's own messages at run time: errors are kept for ours, the rest goes to Python's logging."""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from types import ModuleType
from typing import Protocol

_log = logging.getLogger("stagekit.tensorrt")


class VendorLog(Protocol):
    """An ``ILogger`` of the vendor's."""

    errors: deque[str]


@cache
def vendor_log(trt: ModuleType) -> VendorLog:
    """The logger of all runtimes of a module; TensorRT's own would print to the caller's terminal.

    Parts of the library keep the first logger that they see for as long as the process runs, and tell the runtimes
    that bring another so; a runtime keeps alive no other than its own. So there is one, and it stays.
    https://docs.nvidia.com/deeplearning/tensorrt/api/c_api/classnvinfer1_1_1_i_logger.html
    """

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=10)

        def log(self, severity: object, message: str) -> None:
            text = message.strip()
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(text)
                _log.debug("error: %s", text)
            elif severity == trt.ILogger.Severity.WARNING:
                _log.debug("warning: %s", text)

    log: VendorLog = Log()
    return log


def last_words(log: VendorLog | None) -> str:
    """The latest error of any engine, to end a message with."""
    return f": {log.errors[-1]}" if log is not None and log.errors else ""
