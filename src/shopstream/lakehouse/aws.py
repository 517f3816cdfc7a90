"""The lakehouse on S3: Iceberg tables by PyIceberg, the catalog in AWS Glue, so that Athena can read them.

Order of a commit, and what a crash between two steps leaves:

1. Parquet files are written on the local disk, then put to S3, each whole or not at all
   → files that no snapshot names; `orphans` removes them
2. manifests and table metadata are put to S3                                            → the same
3. one UpdateTable in Glue moves the table to the new metadata, if its version is still the one step 2 started from:
   rows and positions are there, all or nothing

Step 3 is sent once. If it were repeated blindly after a lost answer, Glue would refuse the second call because of the
version that the first one made, and the files of a successful commit would be deleted as those of a failed one.
Instead, the table is searched for the commit, by the id in its snapshot; only if it is missing, the commit is retried.

There is no lock. Two compactions or expiries at once do work twice, but do no harm: the later one finds that the files
it replaces are gone and changes nothing, and only files that no kept snapshot names are deleted.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import s3fs
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchIcebergTableError, NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table

from shopstream.aws.clients import client, error_code, explained
from shopstream.aws.objects import delete_objects, list_objects, split_url
from shopstream.clock import Clock
from shopstream.errors import BackpressureError, ConfigurationError, RetryableError, StateError
from shopstream.lakehouse.catalog import CATALOG_NAME, LakeCatalog, OutcomeUnknownError
from shopstream.lakehouse.iceberg import IcebergLakehouse
from shopstream.lakehouse.maintenance import expire
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings

_SERVER_ERROR = 500
_KEPT_VERSIONS = 3
_REPLACED = {"format-version": "2", "commit.retry.num-retries": "0"}


@contextmanager
def _explained(action: str) -> Iterator[None]:
    """Translate AWS errors, also those that s3fs has turned into an OSError."""
    with explained(action):
        try:
            yield
        except OSError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError | BotoCoreError):
                raise cause from error
            raise


class S3Storage:
    """Files by URL, s3://bucket/key."""

    def __init__(self) -> None:
        self._s3 = client("s3")
        self.file_system = s3fs.S3FileSystem(use_listings_cache=False)

    def __reduce__(self) -> tuple[type["S3Storage"], tuple[()]]:
        """Another process makes its own clients."""
        return S3Storage, ()

    def draft(self, location: str) -> Path:  # noqa: ARG002  a draft is always local
        """A new temporary file."""
        return Path(tempfile.gettempdir()) / f"shopstream-{uuid4().hex}.parquet"

    def keep(self, draft: Path, location: str) -> None:
        """Put a finished draft to S3 and delete it locally."""
        bucket, key = split_url(location)
        try:
            with draft.open("rb") as body, explained(f"to write to bucket {bucket}"):
                self._s3.upload_fileobj(body, bucket, key)
        finally:
            draft.unlink()

    def remove(self, locations: Iterable[str]) -> int:
        """Delete files; returns how many were requested (S3 does not report which existed)."""
        keys: dict[str, list[str]] = {}
        for location in locations:
            bucket, key = split_url(location)
            keys.setdefault(bucket, []).append(key)
        for bucket, of_bucket in keys.items():
            with explained(f"to delete from bucket {bucket}"):
                delete_objects(self._s3, bucket, of_bucket)
        return sum(map(len, keys.values()))

    def listing(self, folder: str) -> Iterator[tuple[str, float]]:
        """Every file below a folder, with the time of its last change in s since 1970."""
        bucket, prefix = split_url(folder)
        with explained(f"to list bucket {bucket}"):
            for item in list_objects(self._s3, bucket, f"{prefix}/"):
                yield f"s3://{bucket}/{item['Key']}", item["LastModified"].timestamp()


class _Glue(GlueCatalog):
    """PyIceberg's Glue catalog; its commits report whether they certainly failed."""

    def __init__(self) -> None:
        super().__init__(
            CATALOG_NAME, client("glue"), **{"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO", "downcast": "false"}
        )
        self._once = client("glue", attempts=1)

    def _update_glue_table(
        self,
        database_name: str,
        table_name: str,
        table_input: Any,  # noqa: ANN401  as PyIceberg has it
        version_id: str,
    ) -> None:
        action = f"to commit to the lakehouse table {table_name}"
        try:
            with explained(action):
                self._once.update_table(
                    DatabaseName=database_name, TableInput=table_input, SkipArchive=True, VersionId=version_id
                )
        except BackpressureError as error:  # not executed
            raise CommitFailedException(str(error)) from error
        except Exception as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and error_code(cause) == "ConcurrentModificationException":
                raise CommitFailedException(str(error)) from error
            status = cause.response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(cause, ClientError) else 0
            timed_out = isinstance(cause, ClientError) and error_code(cause) == "OperationTimeoutException"  # HTTP 400
            if isinstance(cause, HTTPClientError) or status >= _SERVER_ERROR or timed_out:
                raise OutcomeUnknownError(
                    f"AWS Glue did not answer {action}: it may have succeeded; compare the positions, then try again"
                ) from error
            raise


class GlueLakeCatalog(LakeCatalog):
    """The Glue Data Catalog; any number of processes on any machine may commit and read.

    Args:
        settings: codec, file sizes.
        glue: database and location.

    Raises:
        ConfigurationError: no location is set, or credentials, region or a permission are missing.
        StateError: the bucket does not exist.
    """

    def __init__(self, settings: LakehouseSettings, glue: GlueSettings) -> None:
        if glue.warehouse is None:
            raise ConfigurationError(
                "expected the location of the tables in setting aws.glue.warehouse, got none; set it to "
                "s3://bucket/prefix"
            )
        with _explained("to open the lakehouse"):
            tables = _Glue()
            self.region = str(tables.glue.meta.region_name)
            super().__init__(tables, glue.database, glue.warehouse.rstrip("/"), S3Storage(), settings)
            try:
                self.create_tables()
            except NoSuchNamespaceError:  # a role may be allowed to use a database but not to create one
                self._catalog.create_namespace_if_not_exists(self.namespace)
                self.create_tables()

    @property
    def description(self) -> str:
        """Location of catalog and tables, as text."""
        return f"Iceberg tables in {self.root}, catalog AWS Glue, database `{self.namespace}`."

    @property
    def spill_folder(self) -> Path:
        """The machine's folder for temporary files."""
        return Path(tempfile.gettempdir()) / "shopstream-spill"

    def load(self, table: str) -> Table:
        """The newest version of a table, as PyIceberg's object.

        Raises:
            StateError: the table or its files are gone.
        """
        with _explained(f"to read the lakehouse table {table}"):
            try:
                return self._catalog.load_table((self.namespace, table))
            except NoSuchTableError as error:
                raise StateError(
                    f"expected the lakehouse table {table} in the Glue database {self.namespace}, found none; it was "
                    "dropped, start again to create it"
                ) from error

    def find(self, table: str) -> Table | None:
        """A table that another program creates in the database, such as a mart; None if it does not exist."""
        with _explained(f"to read the table {table}"):
            try:
                return self._catalog.load_table((self.namespace, table))
            except (NoSuchTableError, NoSuchIcebergTableError):
                return None

    def replace(self, table: str, rows: pa.Table) -> None:
        """Replace the whole content of a small table at once; creates the table if it does not exist.

        Raises:
            RetryableError: another process replaced it at the same moment.
        """
        with _explained(f"to replace the table {table}"):
            there = self._catalog.create_table_if_not_exists(
                (self.namespace, table), rows.schema, location=self.location(table), properties=_REPLACED
            )
            try:
                with there.transaction() as transaction:
                    if any(True for _ in there.scan().plan_files()):
                        transaction.delete(AlwaysTrue())
                    transaction.append(rows)
            except CommitFailedException as error:
                raise RetryableError(
                    f"another process replaced the table {table} at the same moment; try again"
                ) from error
            expire(self, table, _KEPT_VERSIONS)

    def committing(self) -> AbstractContextManager[None]:
        """No lock: Glue lets the first commit win, the others retry."""
        return _explained("to commit to the lakehouse")

    def maintenance(self) -> AbstractContextManager[None]:
        """No lock: see above."""
        return _explained("to maintain the lakehouse")

    def loading(self, key: str, location: str) -> AbstractContextManager[None]:  # noqa: ARG002  no lock
        """No lock: the commit of a second load is refused."""
        return nullcontext()


class AwsLakehouse(IcebergLakehouse):
    """Iceberg tables on S3 in the Glue Data Catalog; any number of processes may append to and read them.

    Args:
        settings: codec, file sizes.
        glue: database and location of the tables.
        clock: for the age of files that may be orphans.
    """

    catalog: GlueLakeCatalog

    def __init__(self, settings: LakehouseSettings, glue: GlueSettings, clock: Clock | None = None) -> None:
        super().__init__(GlueLakeCatalog(settings, glue), clock)
        self.glue = glue

    @property
    def region(self) -> str:
        """The region of catalog and queries."""
        return self.catalog.region
