"""Where boto3, and what is built on it, looks for credentials and services: at stand-ins, never elsewhere."""

import os

import fsspec

_NOWHERE = "http://127.0.0.1:9"
"""The discard port: a service for which no stand-in was named cannot be reached."""

_REMOVED = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CA_BUNDLE")


def shut(patch, folder):
    """Dummy credentials, a region, no config files (`folder` holds none), and no service that can be reached.

    The end of `patch`, a MonkeyPatch, undoes it.
    """
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_REGION", "eu-central-1")
    patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    patch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # A fixture of the whole session may have named services already.
    for name in [*_REMOVED, *(name for name in os.environ if name.startswith("AWS_ENDPOINT_URL_"))]:
        patch.delenv(name, raising=False)
    point_at(patch, {"default": _NOWHERE})


def point_at(patch, services):
    """Set addresses of services, named as in AWS_ENDPOINT_URL_… but in lower case (`s3`, `cloudwatch_logs`).

    `default` is for those that are not named.
    """
    for service, address in services.items():
        patch.setenv("AWS_ENDPOINT_URL" if service == "default" else f"AWS_ENDPOINT_URL_{service.upper()}", address)
    forget_file_systems()


def forget_file_systems():
    """Drop fsspec's cached S3 file systems: they keep the address that they were made with."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
