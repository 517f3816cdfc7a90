"""Clients of AWS services, and what their errors mean here.

Account, region and addresses come from where boto3 looks for them: environment, `~/.aws/config`, the role of a task or
function. `AWS_ENDPOINT_URL_KINESIS` and the like point a service elsewhere.
"""

from collections.abc import Iterator
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

__all__ = ["client", "config_of", "error_code", "explained"]

_CONNECT_S = 5
_READ_S = 60
_READ_OF_S = {"dynamodb": 5}
"""Of services that answer in milliseconds: a lease must outlast a call that hangs and is made again."""
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
        "403",  # of a HEAD request, which has no body to say more
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
        "404",  # of a HEAD request, which has no body to say more
        "EntityNotFoundException",
        "NoSuchBucket",
        "NoSuchKey",
        "NotFound",
        "NotFoundException",
        "ResourceNotFoundException",
    }
)
_FAILED = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable"})
"""Of S3, also without an HTTP status of their own: for one of many objects, or with 400."""
_SERVER_ERROR = 500
_SETTINGS = (NoCredentialsError, PartialCredentialsError, NoRegionError, InvalidRegionError, ProfileNotFound)


def client(service: str, *, attempts: int = _ATTEMPTS) -> Any:  # noqa: ANN401  boto3 makes its clients at run time
    """A boto3 client with time limits, and retries that back off.

    Args:
        service: boto3's name of it, such as `kinesis`.
        attempts: of each call, the first included; 1 where the caller keeps an order that a blind retry would break.

    Raises:
        ConfigurationError: no region is set, or the profile is unknown.
    """
    with explained(f"to use {service}"):
        return boto3.client(service, config=config_of(service, attempts))  # type: ignore[call-overload]  # no literal


def config_of(service: str, attempts: int = _ATTEMPTS) -> Config:
    """Time limits of a service, and retries that back off."""
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
    """Errors of AWS as ours.

    Args:
        action: what was tried, for the message: "to read stream shopstream-events". No personal data.

    Raises:
        BackpressureError: throttled.
        RetryableError: the service cannot be reached, or failed on its side.
        ConfigurationError: no credentials, no possible region, a permission is missing, or this machine's clock wrong.
        StateError: what it works on is not there.
        PermanentError: anything else that the service refuses.
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
    except EndpointConnectionError as error:  # names are made of regions: a misspelt one has no address
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
