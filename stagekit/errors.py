"""Every error that stagekit raises on purpose.

::

    StagekitError                 exit code 1
    ├── UsageError                2   the request makes no sense as written
    ├── TargetUnavailable         3   the vendor's runtime or device is not here
    ├── ArtefactError             4   something given to stagekit is damaged or does not fit
    │   ├── GraphError                an ONNX file or graph
    │   ├── WeightsError              a state dict
    │   ├── BundleError               a .stages, .task or .deploy folder
    │   ├── EngineError               a compiled engine
    │   ├── ImageError                an image or mask
    │   └── DatasetError              a folder of images and masks, a recipe's data
    ├── VerificationFailed        5   two things that must agree do not
    ├── Unanswered                1   a request that gets no result
    │   ├── Overloaded                more would miss the promised time; says when to try again
    │   ├── DeadlineMissed            its deadline passed
    │   └── Cancelled                 it was withdrawn, or the session was closed
    ├── StoreError                1   the engine store cannot be read or written
    └── CompileError              1   a target could not build a graph

Each says what is wrong, where (a file or a node), and what to do about it. The command line prints
``str(error)`` and leaves with ``exit_code``; a traceback is shown for nothing in this tree.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from os import PathLike


class StagekitError(Exception):
    """What went wrong, where, and the way out.

    Args:
        what: one sentence: what was expected and what was found.
        where: the file, node, tensor or option at fault.
        remedy: the command or change that mends it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  -> {self.remedy}" if self.remedy else head

    def as_dict(self) -> dict[str, str | int | None]:
        """The same facts for ``--json``."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


class UsageError(StagekitError):
    """The request makes no sense as written."""

    exit_code = 2


class TargetUnavailable(StagekitError):
    """The vendor's runtime or device is not on this machine."""

    exit_code = 3


class ArtefactError(StagekitError):
    """Something given to stagekit is damaged or does not fit."""

    exit_code = 4


class GraphError(ArtefactError):
    """An ONNX file or graph is not what it must be."""


class WeightsError(ArtefactError):
    """A state dict does not fit the model; the message lists the keys."""


class BundleError(ArtefactError):
    """A ``.stages``, ``.task`` or ``.deploy`` folder is damaged or does not fit."""


class EngineError(ArtefactError):
    """A compiled engine is damaged, foreign or fails."""


class ImageError(ArtefactError):
    """An image or mask cannot be read or has the wrong form."""


class DatasetError(ArtefactError):
    """A data set's folders or labels are not what the recipe says."""


class VerificationFailed(StagekitError):
    """Two things that must agree do not."""

    exit_code = 5


class Unanswered(StagekitError):
    """A request gets no result, though nothing is broken."""


class Overloaded(Unanswered):
    """With this request in the queue, the promised time could not be kept.

    Args:
        retry_after: seconds until there will be room.
    """

    def __init__(self, what: str, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(what, remedy=f"try again in {retry_after:.3f} s")


class DeadlineMissed(Unanswered):
    """The deadline passed before there was a result."""


class Cancelled(Unanswered):
    """The request was withdrawn, or the session was closed."""


class StoreError(StagekitError):
    """The engine store cannot be read or written."""


class CompileError(StagekitError):
    """A target could not build a graph."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` or a list of what is known: the tail of an error about a wrong name."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names[:20])}"
