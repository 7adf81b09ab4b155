"""The per-layer report that a target wrote while it compiled an engine, as a table.

Any target may give one: a report with a ``label`` that says what its times are, and ``layers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagekit.cli.console import table
from stagekit.errors import BundleError

if TYPE_CHECKING:
    from stagekit.store.record import Record

COLUMNS = {
    "layer": "name",
    "operator": "operator",
    "in": "format_in",
    "out": "format_out",
    "MMAC": "macs",
    "headroom bits": "headroom_bits",
    "saturated %": "saturated",
    "SQNR dB": "sqnr_db",
    "kcycles": "cycles",
    "bound by": "bound_by",
}
"""Heading and key of each column."""

UNITS = {"macs": 1e-6, "saturated": 100.0, "cycles": 1e-3}


def engine_record(folder: Path) -> Record:
    """What is known about a stored engine.

    Raises:
        BundleError: its record is damaged.
    """
    from stagekit.store.record import Damage, read_record

    record = read_record(folder)
    if isinstance(record, Damage):
        raise BundleError(f"expected {record.expected}, found {record.found}", where=record.file)
    return record


def layer_table(name: str, report: Mapping[str, Any]) -> str:
    """A stage's layers with its totals above them; empty for an engine without such a report."""
    layers = report.get("layers")
    if not layers:
        return ""
    rows = [[_cell(layer, key) for key in COLUMNS.values()] for layer in layers]
    return f"{name}: {totals(report)}\n{table(list(COLUMNS), rows)}"


def totals(report: Mapping[str, Any]) -> str:
    """``0.42 ms modelled for ...``: a time never stands without what it is."""
    return (
        f"{report['latency_ms']:.3f} ms, {report['fps_single']:.0f} fps on one thread, {report['fps']:.0f} on all,"
        f" {report['label']}; {report['macs'] / 1e6:.1f} MMAC at {100 * report['mac_utilization']:.1f} % of the array,"
        f" {report['bytes_moved'] / 1e6:.2f} MB moved{_host(report)}"
    )


def _host(report: Mapping[str, Any]) -> str:
    """What the device leaves to the host, whose time is not in the report."""
    nodes = report.get("host")
    if not nodes:
        return ""
    share = 100 * report["device_share"]
    return f"; {share:.2f} % of the multiply-accumulates are on the device, {len(nodes)} layers on the host, not timed"


def summary(reports: Sequence[Mapping[str, Any]]) -> str:
    """The stages of a deployment together; empty where none has a report."""
    known = [r for r in reports if r.get("layers")]
    if not known:
        return ""
    moved, macs = sum(r["bytes_moved"] for r in known), sum(r["macs"] for r in known)
    return (
        f"all stages: {sum(r['latency_ms'] for r in known):.3f} ms one after the other, {known[0]['label']};"
        f" {macs / 1e6:.1f} MMAC, {moved / 1e6:.2f} MB moved"
    )


def _cell(layer: Mapping[str, Any], key: str) -> object:
    value = layer.get(key)
    if value is None:
        return "-"
    return value * UNITS[key] if key in UNITS else value
