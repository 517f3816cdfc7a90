"""Clients of AWS services, and translation of their errors.

boto3 finds account, region and endpoints: environment, `~/.aws/config`, the role of a task or function.
`AWS_ENDPOINT_URL_KINESIS` and the like set another endpoint for a service.

DynamoDB takes and returns plain Python values: boto3's resource layer converts them (numbers come back as Decimal) and
takes conditions as `Attr("counter").eq(1)`. The client behind it does so too and, unlike a resource, may be used by
several threads.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from shopstream.errors import (
    BackpressureError,
    ConfigurationError,
    PermanentError,
    RetryableError,
    ShopstreamError,
    StateError,
)

_CONNECT_S = 5
_READ_S = 60
_READ_OF_S = {"dynamodb": 5}
"""For services that answer in milliseconds: a lease must outlast a call that hangs and is retried."""
_ATTEMPTS = 5
_BACK_OFF = timedelta(seconds=1)

_THROTTLED = frozenset(
    {
        "KMSThrottlingException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_DENIED = frozenset(
    {
        "403",  # of a HEAD request, whose answer has no body
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "KMSAccessDeniedException",
        "NotAuthorized",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
_CLOCK_SKEW = frozenset(
    {"InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
)
_MISSING = frozenset(
    {
        "404",  # of a HEAD request, whose answer has no body
        "EntityNotFoundException",
        "NoSuchBucket",
        "NoSuchKey",
        "NotFound",
        "NotFoundException",
        "ResourceNotFoundException",
    }
)
_FAILED = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable"})
"""Codes that S3 also sends without an HTTP status of 500: for one of many objects, or with 400."""
_SERVER_ERROR = 500
_SETTINGS = (NoCredentialsError, PartialCredentialsError, NoRegionError, InvalidRegionError, ProfileNotFound)


def client(service: str, *, attempts: int = _ATTEMPTS) -> Any:  # noqa: ANN401  boto3 makes its clients at run time
    """A boto3 client with timeouts, and retries with back-off.

    Args:
        service: in boto3's spelling, such as `kinesis`.
        attempts: per call, the first included; 1 if a blind retry would break the caller's order.

    Raises:
        ConfigurationError: no region is set, or the profile is unknown.
    """
    with explained(f"to use {service}"):
        return boto3.client(service, config=config_of(service, attempts))  # type: ignore[call-overload]  # no literal


def config_of(service: str, attempts: int = _ATTEMPTS) -> Config:
    """Timeouts of a service, and retries with back-off."""
    return Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_OF_S.get(service, _READ_S),
        retries={"mode": "standard", "total_max_attempts": attempts},
    )


def error_code(error: ClientError) -> str:
    """The service's code of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Translate errors of AWS.

    Args:
        action: what was attempted, for the message: "to read stream shopstream-events". No personal data.

    Raises:
        BackpressureError: throttled.
        RetryableError: the service cannot be reached, or failed on its side.
        ConfigurationError: no credentials, no valid region, a missing permission, or a wrong clock on this machine.
        StateError: the resource does not exist.
        PermanentError: any other refusal.
    """
    try:
        yield
    except ClientError as error:
        raise _of_service(error, action) from error
    except _SETTINGS as error:
        raise ConfigurationError(
            f"expected AWS credentials and a region {action}, got: {error}; run `aws configure`, or set "
            "AWS_PROFILE and AWS_DEFAULT_REGION"
        ) from error
    except EndpointConnectionError as error:  # host names contain the region: a misspelt one has no address
        raise RetryableError(
            f"AWS cannot be reached {action} ({error}); try again, or correct the region (AWS_DEFAULT_REGION) where it "
            "is misspelt in this address"
        ) from error
    except BotoCoreError as error:
        raise RetryableError(f"AWS cannot be reached {action} ({error}); try again") from error


def _of_service(error: ClientError, action: str) -> ShopstreamError:
    code = error_code(error)
    message = str(error.response.get("Error", {}).get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLED:
        return BackpressureError(f"AWS throttles ({code}) {action}; wait, or raise the limit", _BACK_OFF)
    if code in _CLOCK_SKEW:
        return ConfigurationError(
            f"AWS refuses the signature ({code}) {action}: the clock of this machine or the secret key is wrong; "
            "set the clock by NTP, then check the credentials"
        )
    if code in _DENIED:
        return ConfigurationError(f"AWS denies permission ({code}) {action}: {message}; grant it to the role in use")
    if code in _MISSING:
        return StateError(f"AWS has nothing of that name ({code}) {action}: {message}; deploy it, or correct the name")
    if status >= _SERVER_ERROR or code in _FAILED:
        return RetryableError(f"AWS failed on its side ({code}, HTTP {status}) {action}; try again")
    return PermanentError(f"AWS refuses ({code}) {action}: {message}")


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
