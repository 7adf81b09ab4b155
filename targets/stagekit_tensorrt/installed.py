"""Which TensorRT is installed, found without importing it, and what to install where none is."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from stagekit.errors import TargetUnavailable
from stagekit.target import Profile
from stagekit.versions import first_version
from stagekit_tensorrt.builder.vendors import BuildFailed, Differences, differences, import_vendor
from stagekit_tensorrt.config import BUILDERS

DISTRIBUTIONS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Packages that provide each builder's module; NVIDIA's system packages register as the first."""

REMEDY = (
    "TensorRT-RTX builds without a GPU and is on PyPI:  pip install 'stagekit[tensorrt-rtx]'\n"
    "     TensorRT 10.x or 11.x needs the GPU:  install it as the guide on docs.nvidia.com/deeplearning/tensorrt says"
)


@cache  # a search through all packages, and each engine asks several times
def installed_version(builder: str) -> str:
    """The version of a builder's package; empty where it is not installed."""
    return first_version(*DISTRIBUTIONS[builder])


def resolve(profile: Profile) -> tuple[str, str]:
    """The builder that a profile means on this machine, and its version (empty where it is not installed).

    ``auto`` is TensorRT where that is installed, else TensorRT-RTX where that is, else ``tensorrt``.
    """
    wanted = profile.choice("builder", BUILDERS, "auto")
    for builder in DISTRIBUTIONS if wanted == "auto" else (wanted,):
        found = installed_version(builder)
        if found:
            return builder, found
    return ("tensorrt" if wanted == "auto" else wanted), ""


def vendor(builder: str) -> tuple[ModuleType, Differences]:
    """A builder's module and its row in the table of differences.

    Raises:
        TargetUnavailable: it is not installed, does not import, or is of a version nobody has looked at.
    """
    if not installed_version(builder):
        raise TargetUnavailable(f"{builder} is not installed", where="tensorrt", remedy=REMEDY)
    try:
        _, module = import_vendor(builder)
        return module, differences(builder, module.__version__)
    except ImportError as error:
        raise TargetUnavailable(f"{builder} does not import: {error}", where="tensorrt", remedy=REMEDY) from error
    except BuildFailed as error:
        raise TargetUnavailable(str(error), where="tensorrt", remedy="install one of these") from error
