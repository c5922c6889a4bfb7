"""Where a remote is and how it is reached: a URL and what is said beside it, none of it secret."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from casstore.errors import RemoteError
from casstore.remote.backend import Backend
from casstore.remote.directory import DirectoryBackend

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https")
_CONTAINER_FIRST = ("abfs", "abfss")


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """The place of a remote. Secrets have no place here: they come from the environment, a profile or a command.

    Attributes
    ----------
    url
        `s3://bucket/prefix`, `gs://...`, `az://container/prefix`, `https://...` of a store that obstore knows, `file:///...`
        or the path of a directory.
    endpoint
        The URL of a server that speaks S3 or Azure, for what is not AWS or Azure itself.
    region
        Of the bucket.
    anonymous
        Whether to ask without credentials.
    profile
        A profile of `~/.aws/config`, which needs boto3.
    credential_process
        A command that prints credentials, in AWS's format.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
    profile: str | None = None
    credential_process: str | None = None

    @property
    def is_directory(self) -> bool:
        return self.url.startswith("file://") or not _SCHEME.match(self.url)

    @property
    def name(self) -> str:
        """What the backend that is opened there is called."""
        url = self.checked().url
        return url if self.is_directory else url.rstrip("/")

    def checked(self) -> RemoteAddress:
        """The same; raises RemoteError for what no remote can be at. A directory's path is made whole."""
        if self.is_directory:
            path = unquote(urlsplit(self.url).path) if self.url.startswith("file://") else os.path.expanduser(self.url)
            if not path:
                raise RemoteError(
                    "the URL of the remote is empty; give a directory, or a URL such as s3://bucket/models"
                )
            return RemoteAddress(os.path.abspath(path))
        parts = urlsplit(self.url)
        is_container = parts.scheme.lower() in _CONTAINER_FIRST  # abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX
        if (parts.username is not None and not is_container) or parts.password is not None or parts.query:
            raise RemoteError(
                "the URL of a remote is kept in a file and shown, so it must not have credentials in it; give them by "
                "the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; of Azure AZURE_STORAGE_ACCOUNT_KEY), "
                "--profile or --credential-process"
            )
        if parts.scheme.lower() not in _SCHEMES:
            raise RemoteError(
                f"casstore cannot keep a remote at {self.url}: it knows {', '.join(_SCHEMES)} and directories"
            )
        if not parts.netloc:
            raise RemoteError(f"{self.url} names no bucket; write it as {parts.scheme}://BUCKET/PREFIX")
        return self

    def open(self) -> Backend:
        """The objects there. Nothing is asked of the store yet. Raises RemoteError."""
        address = self.checked()
        if address.is_directory:
            return DirectoryBackend(address.url)
        from casstore.remote.object_store import ObjectStoreBackend  # obstore is an extra, and takes time to import

        return ObjectStoreBackend(address)
