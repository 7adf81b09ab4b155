"""Reports: self-contained HTML, Markdown and CSV from results."""

from stagekit.bench.report.page import write_page, write_report
from stagekit.bench.report.tables import markdown, write_csv

__all__ = ["markdown", "write_csv", "write_page", "write_report"]
