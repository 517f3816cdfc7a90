"""DynamoDB with plain Python values: what the tables of leases and of incidents share.

boto3's resource layer converts values (numbers come back as Decimal) and takes conditions as `Attr("counter").eq(1)`;
the client behind it does so too and, unlike a resource, may be used by several threads.
"""

from collections.abc import Callable, Mapping
from typing import Any

import boto3
from botocore.exceptions import ClientError

from shopstream.aws.clients import config_of, error_code, explained

__all__ = ["dynamodb_client", "query_all", "write_if"]


def dynamodb_client() -> Any:  # noqa: ANN401  boto3 makes its clients at run time
    """A client that takes and returns plain Python values.

    Raises:
        ConfigurationError: no region is set, or the profile is unknown.
    """
    with explained("to use dynamodb"):
        return boto3.resource("dynamodb", config=config_of("dynamodb")).meta.client


def query_all(dynamodb: Any, action: str, **query: object) -> list[dict[str, Any]]:  # noqa: ANN401  boto3's client
    """All items of a Query, however many pages it has.

    Args:
        dynamodb: the client.
        action: for error messages, see `clients.explained`.
        query: as boto3 takes it.
    """
    with explained(action):
        return [item for page in dynamodb.get_paginator("query").paginate(**query) for item in page["Items"]]


def write_if(write: Callable[..., Mapping[str, Any]], action: str, **arguments: object) -> bool:
    """Make a conditional write; returns whether its condition held.

    Args:
        write: the client's `put_item`, `update_item` or `delete_item`.
        action: for error messages, see `clients.explained`.
        arguments: as boto3 takes them, `ConditionExpression` among them.
    """
    with explained(action):
        try:
            write(**arguments)
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
    return True
