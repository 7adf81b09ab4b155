"""What tables are made of: cells that sort and say what kind of figure they are."""

from __future__ import annotations

from dataclasses import dataclass

from stagekit.bench.results import Figure

DASH = "\u2013"
"""Between the ends of an interval, and where there is nothing to say."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, what it sorts by, and what kind of figure it is (empty where it is none)."""

    text: str
    value: float | str
    kind: str = ""
    worse: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title; ``note`` says what the columns mean where that is not plain."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def text(value: str) -> Cell:
    return Cell(value, value)


def number(figure: Figure | None, scale: float = 1.0, unit: str = "", digits: int = 3) -> Cell:
    """A figure in another unit, with its interval where it has one."""
    if figure is None:
        return Cell(DASH, -1.0)
    shown = significant(figure.value * scale, digits)
    if figure.low is not None and figure.high is not None:
        shown += f" ({significant(figure.low * scale, digits)}{DASH}{significant(figure.high * scale, digits)})"
    return Cell(f"{shown}{' ' + unit if unit else ''}", figure.value, figure.kind)


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without exponents: 1234 -> 1234, 12.345 -> 12.3, 0.0123 -> 0.0123."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    shown = f"{value:.{digits}g}"
    return f"{value:.{digits + 3}f}".rstrip("0") if "e" in shown else shown
