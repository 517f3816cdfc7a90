"""A stand-in of Athena: runs queries over the Iceberg tables of a Glue database, by DuckDB.

moto's Athena answers with canned rows. This one reads Athena's SQL with sqlglot and runs it; tables that a query makes
are written as Iceberg tables into the same Glue. Where Athena is stricter than DuckDB, in what these models need, so is
this: no table or view has instants, and timestamps are written with six digits.

Engines differ in more than that. What is proved here is that statements parse as Athena's, refer to what is there, and
mean the same as DuckDB's where sqlglot knows both.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import duckdb
import pyarrow as pa
import sqlglot
from pyiceberg.catalog.glue import GlueCatalog
from sqlglot import exp

_MACROS = """
SET TimeZone = 'UTC';
CREATE MACRO with_timezone(moment, zone) AS moment AT TIME ZONE zone;
CREATE MACRO trino_format(pattern, value) AS CASE
    WHEN pattern = '%,d' THEN format('{:,}', CAST(value AS BIGINT)) ELSE printf(pattern, CAST(value AS DOUBLE)) END;
CREATE MACRO to_utf8(text) AS encode(text);
"""
_TYPES = {"BIGINT": "bigint", "INTEGER": "integer", "BOOLEAN": "boolean", "DOUBLE": "double", "DATE": "date"}
_RENAME = re.compile(r"alter table `?(\w+)`?\.`?(\w+)`? rename to `?(\w+)`?\.`?(\w+)`?", re.IGNORECASE)


class QueryError(Exception):
    """What Athena would say of a query that fails."""


class Engine:
    """Runs one statement at a time."""

    def __init__(self):
        self.statements = []
        self.scan_limit_exceeded = False
        self._views = {}
        self._lock = threading.Lock()
        self._catalog = GlueCatalog("athena", **{"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"})

    def run(self, text, database):
        """Column names, their types, and rows of text."""
        with self._lock, duckdb.connect() as connection:
            self.statements.append(text)
            if self.scan_limit_exceeded:
                raise QueryError("Query cancelled! : Bytes scanned limit was exceeded")
            if renamed := _RENAME.search(text):
                self._catalog.rename_table(tuple(renamed.group(1, 2)), tuple(renamed.group(3, 4)))
                return [], []
            connection.execute(_MACROS)
            statement = _checked(text)
            if isinstance(statement, exp.Create):
                self._create(connection, statement, database)
                return [], []
            rows = self._select(connection, statement, database)
            columns = [
                (name, _TYPES.get(str(kind), "varchar")) for name, kind in zip(rows.columns, rows.types, strict=True)
            ]
            return columns, [[None if value is None else _text(value) for value in row] for row in rows.fetchall()]

    def _create(self, connection, statement, database):
        name = statement.this.name
        rows = self._select(connection, statement.expression, database)
        if any(str(kind) == "TIMESTAMP WITH TIME ZONE" for kind in rows.types):
            raise QueryError("NOT_SUPPORTED: Unsupported Hive type: timestamp(6) with time zone")
        if statement.kind == "VIEW":
            known = name in self._views
            self._views[name] = statement.expression
            entry = {"Name": name, "TableType": "VIRTUAL_VIEW", "Parameters": {"presto_view": "true"}}
            change = self._catalog.glue.update_table if known else self._catalog.glue.create_table
            change(DatabaseName=database, TableInput=entry)
            return
        location = next((item.this.this for item in statement.find_all(exp.LocationProperty)), None)
        if location is None:
            raise QueryError("INVALID_TABLE_PROPERTY: an Iceberg table needs a location")
        table = rows.to_arrow_table()
        made = self._catalog.create_table((database, name), table.schema, location=location.rstrip("/"))
        made.append(table)

    def _select(self, connection, statement, database, within=()):
        """A relation; tables of the query are made known to the connection first."""
        ctes = {cte.alias for cte in statement.find_all(exp.CTE)}
        for table in statement.find_all(exp.Table):
            if (not table.db and table.name in ctes) or table.name in within:
                continue
            if table.db:
                database = table.db
            if table.name in self._views:
                text = _duckdb_sql(self._views[table.name])
                self._select(connection, self._views[table.name], database, (*within, table.name))
                connection.execute(f"CREATE OR REPLACE TEMPORARY VIEW {table.name} AS {text}")
            else:
                connection.register(table.name, self._rows(database, table.name))
        return connection.sql(_duckdb_sql(statement))

    def _rows(self, database, name):
        table = self._catalog.load_table((database, name))
        return pa.Table.from_batches(table.scan().to_arrow_batch_reader(), schema=table.schema().as_arrow())


def _checked(text):
    try:
        (statement,) = sqlglot.parse(text, read="athena")
    except sqlglot.ParseError as error:
        raise QueryError(f"SYNTAX_ERROR: {error}") from error
    for kind in statement.find_all(exp.DataType):
        if kind.this == exp.DataType.Type.TIMESTAMP and [str(size) for size in kind.expressions] != ["6"]:
            raise QueryError("NOT_SUPPORTED: Timestamp precision (3) not supported for Iceberg. Use 'timestamp(6)'")
    return statement


def _duckdb_sql(statement):
    def adapted(node):
        if isinstance(node, exp.Table):
            return exp.to_table(node.name).as_(node.alias) if node.alias else exp.to_table(node.name)
        if isinstance(node, exp.Extract) and node.this.name.lower() == "day_of_week":
            return exp.Extract(this=exp.var("ISODOW"), expression=node.expression)
        if isinstance(node, exp.Format):
            return exp.Anonymous(this="trino_format", expressions=[node.this, *node.expressions])
        return node

    return statement.copy().transform(adapted).sql(dialect="duckdb", unsupported_level=sqlglot.ErrorLevel.IGNORE)


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        action = self.headers["X-Amz-Target"].rpartition(".")[2]
        answer = _ACTIONS.get(action)
        status, body = (
            (200, answer(self.server, request))
            if answer
            else (400, {"__type": "InvalidRequestException", "Message": action})
        )
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        """Quiet."""


def _start(server, request):
    query_id = str(uuid4())
    text, database = request["QueryString"], request["QueryExecutionContext"]["Database"]
    try:
        columns, rows = server.engine.run(text, database)
        state, reason = "SUCCEEDED", ""
    except Exception as error:  # noqa: BLE001  whatever it is, it is the query's
        columns, rows, state, reason = [], [], "FAILED", f"{type(error).__name__}: {error}"
    server.executions[query_id] = (text, columns, rows, state, reason, request.get("WorkGroup"))
    return {"QueryExecutionId": query_id}


def _execution(server, request):
    text, columns, _, state, reason, group = server.executions[request["QueryExecutionId"]]
    status = {"State": state, "StateChangeReason": reason}
    if state == "FAILED":
        status["AthenaError"] = {"ErrorCategory": 2, "ErrorType": 1, "Retryable": False, "ErrorMessage": reason}
    return {
        "QueryExecution": {
            "QueryExecutionId": request["QueryExecutionId"],
            "Query": text,
            "StatementType": "DML" if columns else "DDL",
            "Status": status,
            "Statistics": {"DataScannedInBytes": 1},
            "WorkGroup": group,
        }
    }


def _results(server, request):
    _, columns, rows, *_ = server.executions[request["QueryExecutionId"]]
    head = [[name for name, _ in columns]] if columns else []
    data = [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in (*head, *rows)]
    info = [{"Name": name, "Type": kind} for name, kind in columns]
    return {"UpdateCount": 0, "ResultSet": {"Rows": data, "ResultSetMetadata": {"ColumnInfo": info}}}


def _work_group(_server, request):
    results = {"OutputLocation": "s3://results/athena/"}
    configuration = {"EnforceWorkGroupConfiguration": True, "ResultConfiguration": results}
    return {"WorkGroup": {"Name": request["WorkGroup"], "State": "ENABLED", "Configuration": configuration}}


_ACTIONS = {
    "StartQueryExecution": _start,
    "GetQueryExecution": _execution,
    "GetQueryResults": _results,
    "GetWorkGroup": _work_group,
}


@contextmanager
def running():
    """The address of a stand-in while it runs, and its engine; Glue and S3 are where the environment points."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.engine, server.executions = Engine(), {}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.engine
        finally:
            server.shutdown()
            thread.join()
