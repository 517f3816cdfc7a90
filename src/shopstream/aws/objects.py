"""Objects in S3: the object store of checkpoints and live panels, and what the lakehouse shares with it.

boto3 does the work, and not a library of object stores: obstore 0.12 reports throttling, an unreachable host, and a
missing bucket as one error without a code, and its local store has no conditional update.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError
from s3transfer.exceptions import RetriesExceededError

from shopstream.aws.clients import client, error_code, explained
from shopstream.errors import RetryableError

_NO_OBJECT: Final = frozenset({"404", "NoSuchKey"})
_CHANGED: Final = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
_MAX_DELETIONS: Final = 1_000
"""Keys that S3 takes in one DeleteObjects."""


class S3Objects:
    """`engine.objects.ObjectStore` under a prefix of a bucket.

    Args:
        address: s3://bucket/prefix.
    """

    def __init__(self, address: str) -> None:
        self.place = address.rstrip("/")
        self._bucket, prefix = split_url(self.place)
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = client("s3")

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of a small object; None when there is none."""
        with explained(f"to read {self.place}/{key} (s3:GetObject)"):
            answer = self._unless_missing(self._client.get_object, key)
            return (answer["Body"].read(), answer["ETag"]) if answer else None

    def written_at(self, key: str) -> datetime | None:
        """When it was last written; None when there is none."""
        with explained(f"to read the time of {self.place}/{key} (s3:GetObject)"):
            answer = self._unless_missing(self._client.head_object, key)
        return answer["LastModified"] if answer else None

    def _unless_missing(self, call: Callable[..., dict[str, Any]], key: str) -> dict[str, Any] | None:
        try:
            return call(**self._object(key))
        except ClientError as error:
            if error_code(error) in _NO_OBJECT:
                return None
            raise

    def replace(self, key: str, content: bytes, version: str | None) -> str | None:
        """Write if it still has this version; None when another process wrote it."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with explained(f"to write {self.place}/{key} (s3:PutObject)"):
            try:
                answer = self._client.put_object(**self._object(key), Body=content, **condition)
            except ClientError as error:
                if error_code(error) in _CHANGED | _NO_OBJECT:
                    return None
                raise
        return str(answer["ETag"])

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whatever was there."""
        with explained(f"to write {self.place}/{key} (s3:PutObject)"):
            self._client.put_object(**self._object(key), Body=content)

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size."""
        with explained(f"to write {self.place}/{key} (s3:PutObject)"), path.open("rb") as file:
            self._client.upload_fileobj(file, **self._object(key))

    def download(self, key: str, path: Path) -> None:
        """Get a file of any size."""
        action = f"to read {self.place}/{key} (s3:GetObject)"
        with explained(action), path.open("wb") as file:
            try:
                self._client.download_fileobj(**self._object(key), Fileobj=file)
            except RetriesExceededError as error:
                raise RetryableError(
                    f"AWS cannot be reached {action} (answers break off: {error.last_exception}); try again"
                ) from error

    def keys(self, prefix: str) -> list[str]:
        """Keys that begin with a prefix, in order."""
        with explained(f"to list {self.place} (s3:ListBucket)"):
            found = list_objects(self._client, self._bucket, self._prefix + prefix)
            return [item["Key"].removeprefix(self._prefix) for item in found]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is gone is no error."""
        with explained(f"to clean up {self.place} (s3:DeleteObject)"):
            delete_objects(self._client, self._bucket, [self._prefix + key for key in keys])


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def list_objects(s3: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:  # noqa: ANN401  boto3's client
    """Every object below a prefix, as ListObjectsV2 describes it."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", ())


def delete_objects(s3: Any, bucket: str, keys: Sequence[str]) -> None:  # noqa: ANN401  boto3's client
    """Remove objects, however many; one that is gone is no error.

    Raises:
        ClientError: S3 refused one of them.
    """
    for start in range(0, len(keys), _MAX_DELETIONS):
        batch = [{"Key": key} for key in keys[start : start + _MAX_DELETIONS]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise ClientError({"Error": refused}, "DeleteObjects")
