"""Versions of the tools that made something, for manifests and keys."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions by package name; packages that are not installed are left out."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
