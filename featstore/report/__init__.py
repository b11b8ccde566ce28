"""What an evaluation found, as one page to show: HTML that opens offline, Markdown, or JSON."""

from featstore.report.markdown import to_markdown
from featstore.report.page import to_html
from featstore.report.write import check_destination, write_report

__all__ = ["check_destination", "to_html", "to_markdown", "write_report"]
