"""Versions of the tools that made something, for manifests and keys."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions by package name; packages that are not installed are left out."""
    return {package: found for package in packages if (found := first_version(package))}


def first_version(*packages: str) -> str:
    """The version of the first of these packages that is installed; empty where none is."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
