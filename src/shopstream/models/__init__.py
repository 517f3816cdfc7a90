"""The dbt project, its runner, the reports, and a user's own SQL."""
