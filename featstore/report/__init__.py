"""What an evaluation or a plan found, as one page to show: HTML that opens offline, Markdown, or JSON."""

from featstore.report.markdown import to_markdown
from featstore.report.page import to_html
from featstore.report.plan import Plan, PlanPath
from featstore.report.plan_page import plan_to_html, write_plan
from featstore.report.write import check_destination, write_report

__all__ = [
    "Plan",
    "PlanPath",
    "check_destination",
    "plan_to_html",
    "to_html",
    "to_markdown",
    "write_plan",
    "write_report",
]
