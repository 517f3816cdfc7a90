"""What it means: the dbt project, its runner, the reports and a user's own queries."""

from shopstream.models.query import QueryResult, query
from shopstream.models.reports import Report, ReportName, Scope, report, scope
from shopstream.models.runner import BuildResult, build

__all__ = ["BuildResult", "QueryResult", "Report", "ReportName", "Scope", "build", "query", "report", "scope"]
