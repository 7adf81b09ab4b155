"""OpenVINO's messages, shortened for people."""

from __future__ import annotations


def gist(error: Exception | str) -> str:
    """OpenVINO's messages begin with the places they passed through; what went wrong comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API", "Summary"))]
    return "; ".join(telling[:2]) or (lines[-1] if lines else "no reason given")
