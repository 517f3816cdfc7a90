"""Objects under a prefix of an S3 bucket."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from botocore.exceptions import ClientError
from s3transfer.exceptions import RetriesExceededError

from shopstream.aws.clients import client, error_code, explained
from shopstream.errors import RetryableError

__all__ = ["S3Objects"]

_NO_OBJECT: Final = frozenset({"404", "NoSuchKey"})
_CHANGED: Final = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
_MOST_DELETED: Final = 1_000


class S3Objects:
    """`engine.objects.ObjectStore` under a prefix of a bucket.

    Args:
        address: s3://bucket/prefix.
    """

    def __init__(self, address: str) -> None:
        self.place = address.rstrip("/")
        self._bucket, _, prefix = self.place.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = client("s3")

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of a small object; None if there is none."""
        with explained(f"to read {self.place}/{key} (s3:GetObject)"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error_code(error) in _NO_OBJECT:
                    return None
                raise
            return answer["Body"].read(), answer["ETag"]

    def written_at(self, key: str) -> datetime | None:
        """When the object was last written; None if there is none."""
        with explained(f"to look at {self.place}/{key} (s3:GetObject)"):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error_code(error) in _NO_OBJECT:
                    return None
                raise
        moment: datetime = answer["LastModified"]
        return moment

    def replace(self, key: str, content: bytes, version: str | None) -> str | None:
        """Write if the object still has this version; returns the new version, None if somebody else wrote it."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with explained(f"to write {self.place}/{key} (s3:PutObject)"):
            try:
                answer = self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content, **condition)
            except ClientError as error:
                if error_code(error) in _CHANGED | _NO_OBJECT:
                    return None
                raise
        return str(answer["ETag"])

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, over any that is there."""
        with explained(f"to write {self.place}/{key} (s3:PutObject)"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content)

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size."""
        with explained(f"to write {self.place}/{key} (s3:PutObject)"), path.open("rb") as file:
            self._client.upload_fileobj(file, self._bucket, self._prefix + key)

    def download(self, key: str, path: Path) -> None:
        """Read a file of any size."""
        action = f"to read {self.place}/{key} (s3:GetObject)"
        with explained(action), path.open("wb") as file:
            try:
                self._client.download_fileobj(self._bucket, self._prefix + key, file)
            except RetriesExceededError as error:
                raise RetryableError(
                    f"AWS cannot be reached {action} (answers break off: {error.last_exception}); try again"
                ) from error

    def keys(self, prefix: str) -> list[str]:
        """Keys that begin with the prefix, in order."""
        with explained(f"to list {self.place} (s3:ListBucket)"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [item["Key"].removeprefix(self._prefix) for page in pages for item in page.get("Contents", ())]

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; a missing one is no error."""
        for first in range(0, len(keys), _MOST_DELETED):
            part = [{"Key": self._prefix + key} for key in keys[first : first + _MOST_DELETED]]
            with explained(f"to clean up {self.place} (s3:DeleteObject)"):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": part, "Quiet": True})
                for refused in answer.get("Errors", ()):
                    raise ClientError({"Error": refused}, "DeleteObjects")
