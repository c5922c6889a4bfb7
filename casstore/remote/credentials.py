"""Credentials for a bucket: taken from the environment, from a profile, or from a command, and kept nowhere."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from casstore.errors import RemoteError

_COMMAND_SECONDS = 60
# What object_store itself finds: keys, a web identity, or the address of a container's or Kubernetes' own service.
_IN_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_GOOGLES = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "SERVICE_ACCOUNT",
)
_AZURES = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_USE_AZURE_CLI",
    "AZURE_STORAGE_USE_EMULATOR",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
)
_AZURE_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR")
_AZURE_HOSTS = (".windows.net", ".fabric.microsoft.com")
_MAKER = Path("/sys/devices/virtual/dmi/id/sys_vendor")

Provider = Callable[[], Any]


def s3_provider(
    url: str, profile: str | None, credential_process: str | None, environment: Mapping[str, str] = os.environ
) -> Provider | None:
    """What gives credentials for S3, or None where the environment has them. Raises RemoteError where nothing does.

    They are looked for where, and in the order in which, AWS's own programs do.
    """
    if credential_process is not None:
        return _Command(credential_process)
    if profile is not None:
        return _of_profile(profile)
    if any(environment.get(name) for name in _IN_ENVIRONMENT):
        return None
    if environment.get("AWS_PROFILE"):
        return _of_profile(environment["AWS_PROFILE"])
    home = environment.get("HOME", "/")
    if Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials").exists():
        return _of_profile("default")
    if _is_machine_of("Amazon"):
        return None
    raise RemoteError(
        f"there are no credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set the "
        "remote up again with --profile NAME, --credential-process COMMAND, or --anonymous for a public bucket"
    )


def check_google(url: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises RemoteError where nothing gives credentials for GCS."""
    known = Path(environment.get("HOME", "/"), ".config/gcloud/application_default_credentials.json")
    if not any(environment.get(name) for name in _GOOGLES) and not known.exists() and not _is_machine_of("Google"):
        raise RemoteError(
            f"there are no credentials for {url}: set GOOGLE_APPLICATION_CREDENTIALS to a file with a key, run `gcloud "
            "auth application-default login`, or set the remote up again with --anonymous for a public bucket"
        )


def check_azure(url: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises RemoteError where nothing gives credentials for Azure."""
    if not any(environment.get(name) for name in _AZURES) and not _is_machine_of("Microsoft"):
        raise RemoteError(
            f"there are no credentials for {url}: set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, beside "
            "AZURE_STORAGE_ACCOUNT_NAME, or set the remote up again with --anonymous for a public container"
        )


def check_azure_account(url: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises RemoteError where nothing says in whose account a container of Azure is."""
    parts = urlsplit(url)
    is_said = parts.username is not None or (parts.hostname or "").endswith(_AZURE_HOSTS)
    if not is_said and not any(environment.get(name) for name in _AZURE_ACCOUNTS):
        raise RemoteError(
            f"{url} does not say in which storage account its container is: set AZURE_STORAGE_ACCOUNT_NAME, or write "
            "the URL as https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX"
        )


def _is_machine_of(maker: str) -> bool:
    """Whether this machine is one of a cloud that has a service for credentials. Elsewhere to ask it takes minutes."""
    try:
        return maker in _MAKER.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def _of_profile(profile: str) -> Provider:
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise RemoteError(
            f"the profile {profile!r} of ~/.aws is read by boto3, which is not installed: pip install boto3"
        ) from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=profile))
    except Exception as error:
        raise RemoteError(f"the profile {profile!r} gives no credentials: {type(error).__name__}") from error


class _Command:
    """Runs a command that prints credentials as AWS's `credential_process` does, each time they are asked for.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
    """

    def __init__(self, command: str) -> None:
        self._command = command

    def __call__(self) -> dict[str, Any]:
        try:
            done = subprocess.run(shlex.split(self._command), capture_output=True, timeout=_COMMAND_SECONDS, check=True)
            said = json.loads(done.stdout)
            expires = said.get("Expiration")
            return {
                "access_key_id": said["AccessKeyId"],
                "secret_access_key": said["SecretAccessKey"],
                "token": said.get("SessionToken"),
                "expires_at": None if expires is None else _time(expires),
            }
        except (OSError, subprocess.SubprocessError) as error:
            raise RemoteError(
                f"the credential process gave nothing ({type(error).__name__}); run it by hand"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError):
            # What it printed may be a secret, and is in the error's text.
            raise RemoteError(
                "the credential process did not print credentials as AWS's format asks; run it by hand"
            ) from None


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)
