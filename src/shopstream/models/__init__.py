"""What it means: the dbt project, its runner (`runner`), the reports (`reports`) and a user's own SQL (`query`).

Only the names stand here: the command line needs them at every start, and dbt and DuckDB are heavy.
"""

from shopstream.models.names import Bots, ReportName

__all__ = ["Bots", "ReportName"]
