"""Reports: self-contained HTML, Markdown and CSV from results."""

from stagekit.bench.report.exports import markdown, write_csv
from stagekit.bench.report.page import write_page, write_report

__all__ = ["markdown", "write_csv", "write_page", "write_report"]
