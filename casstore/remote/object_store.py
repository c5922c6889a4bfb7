"""Object stores (S3, GCS, Azure and what speaks as they do) through obstore, which is the extra `remote`."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from casstore.errors import RemoteError
from casstore.remote.address import RemoteAddress
from casstore.remote.backend import MOST_DOCUMENT_BYTES, Entry, KeyMissing, KeyTaken, refusal, too_large
from casstore.remote.credentials import check_azure, check_azure_account, check_google, s3_provider
from casstore.remote.loop import RequestLoop

try:
    import obstore
    from obstore import exceptions
    from obstore.store import from_url
except ImportError as error:
    raise RemoteError(
        "remotes in object stores need obstore, which is not installed: pip install 'casstore[remote]'"
    ) from error

_T = TypeVar("_T")
# A request ends after so long: obstore counts the time that a body takes, so that a large one needs more. The last is
# for a pack at some 40 kB/s. One signed request must end within a quarter of an hour (RequestTimeTooSkewed).
_TIMEOUTS: tuple[tuple[int, float], ...] = ((1 << 20, 60), (8 << 20, 240), (1 << 62, 840))
_CONNECT_SECONDS = 10
# Some ten seconds, with pauses of 0.1 s and twice as long each time, at random: a server that restarts takes as long.
_RETRY: dict[str, Any] = {"max_retries": 8, "retry_timeout": timedelta(seconds=120)}
_CA_VARIABLES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_LIST_PAGE = 1000
_LIST_TRIES = 3
# obstore has no class of its own for what servers say of ranges: some send all of the object, and some have no way to
# send what there is where a range goes beyond the end.
_WHOLE_ANSWER = "non-partial response"
_RANGE_ANSWERS = (_WHOLE_ANSWER, "416 Range", "400 Bad Request")
_NOT_LISTED = re.compile(r"performing PROPFIND .* status code: (400|405|501)\b", re.DOTALL)
_QUERY = re.compile(r"\?\S*")
_INNER = "Debug source:"
_REASON = re.compile(r'\b(?:message|error): "([^"?]{1,100})"')  # as the system has it: of the name, or the connection
_MOST_CHARACTERS = 300


class ObjectStoreBackend:
    """The objects of a bucket below a prefix. Threads may share it; a forked child must open its own."""

    listing_delay_seconds = 0.0

    def __init__(self, address: RemoteAddress) -> None:
        """Nothing is asked of the store yet. Raises RemoteError, such as where there are no credentials."""
        self.name = address.url.rstrip("/")
        self._loop = RequestLoop(self.name)
        # Each takes some 70 ms to make: most processes need one or two of them.
        self._clients: dict[float, Any] = {}
        self._client = functools.partial(_store, address)
        try:
            self._store(0)
        except RemoteError:
            self._loop.close()
            raise
        except (exceptions.BaseError, ValueError, OSError) as error:
            self._loop.close()
            raise RemoteError(f"{self.name} cannot be opened: {_shortened(error)}") from None

    def create(self, key: str, body: bytes) -> None:
        """See Backend."""

        async def write() -> None:
            try:
                await obstore.put_async(self._store(len(body)), key, body, mode="create")
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                raise KeyTaken(key) from None

        self._write(key, write)

    def put(self, key: str, body: bytes) -> None:
        """See Backend. One request whatever its size: a multipart upload that is cut short stays, and costs."""
        self._write(key, lambda: obstore.put_async(self._store(len(body)), key, body, use_multipart=False))

    def get(self, key: str) -> bytes:
        """See Backend."""

        async def read() -> bytes:
            result = await obstore.get_async(self._store(1 << 30), key)
            if result.meta["size"] > MOST_DOCUMENT_BYTES:
                raise too_large(self.name, key)
            return bytes(await result.bytes_async())

        return self._run(key, read)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Backend."""

        async def read() -> bytes:
            store = self._store(length)
            try:
                return bytes(await obstore.get_range_async(store, key, start=start, length=length))
            except exceptions.GenericError as error:
                if not any(words in str(error) for words in _RANGE_ANSWERS):
                    raise
                is_whole = _WHOLE_ANSWER in str(error)
            if is_whole:
                result = await obstore.get_async(store, key)
                return bytes(await result.bytes_async())[start : start + length]
            left = (await obstore.head_async(store, key))["size"] - start
            if left <= 0:
                return b""
            return bytes(await obstore.get_range_async(store, key, start=start, length=min(length, left)))

        return self._run(key, read)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """See Backend."""
        found = self._listed(prefix, after)
        # Not every store lists in order, or knows offsets, such as Azure's emulator.
        yield from sorted(entry for entry in found if entry.key > after)

    def _listed(self, prefix: str, after: str) -> Iterable[Entry]:
        """All pages. One that is cut short is not asked for again by obstore."""
        for _ in range(_LIST_TRIES - 1):
            try:
                return [entry for page in self._pages(prefix, after) for entry in page]
            except RemoteError as error:
                if error.is_refusal:
                    raise
        return [entry for page in self._pages(prefix, after) for entry in page]

    def _pages(self, prefix: str, after: str) -> Iterator[Iterable[Entry]]:
        offset = {"offset": after} if after else {}
        stream = obstore.list(self._store(0), prefix.rstrip("/"), chunk_size=_LIST_PAGE, **offset)

        async def page() -> Any:
            try:
                return await stream.__anext__()
            except StopAsyncIteration:
                return None

        while (entries := self._run(prefix, page)) is not None:
            yield [
                Entry(entry["path"], entry["size"], int(entry["last_modified"].timestamp() * 1e9)) for entry in entries
            ]

    def delete(self, keys: Sequence[str]) -> None:
        """See Backend."""
        paths = _as_list(keys)

        async def remove() -> None:
            try:
                await obstore.delete_async(self._store(0), paths)
            except exceptions.GenericError:
                # Not every store knows requests that remove many, and of one that refuses them it is not told why.
                one_by_one = self._client(_TIMEOUTS[0][1], one_by_one=True)
                for path in paths:
                    with contextlib.suppress(FileNotFoundError):
                        await obstore.delete_async(one_by_one, path)
            except FileNotFoundError:
                return

        if paths:
            self._run(paths[0], remove)

    def tidy(self) -> None:
        """See Backend. An object is there whole or not at all, and leaves nothing."""

    def close(self) -> None:
        """Give up what is running, and let go of connections."""
        self._loop.close()

    def _store(self, size: int) -> Any:
        """The client whose timeout fits a body of that size in bytes."""
        seconds = next(seconds for most, seconds in _TIMEOUTS if size <= most)
        if seconds not in self._clients:
            self._clients[seconds] = self._client(seconds)
        return self._clients[seconds]

    def _write(self, key: str, request: Callable[[], Awaitable[object]]) -> None:
        try:
            self._run(key, request)
        except KeyMissing:
            raise refusal(
                f"{self.name} cannot be written to: its bucket is not there; make it, or check the URL and the endpoint"
            ) from None

    def _run(self, key: str, request: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return self._loop.run(request)
        except FileNotFoundError:
            raise KeyMissing(key) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise refusal(
                f"{self.name} refuses access to {key}: {_shortened(error)}; check the credentials, and what they allow"
            ) from None
        except (NotImplementedError, exceptions.NotSupportedError):
            raise refusal(
                f"{self.name} cannot be written to: it is a web server, which gives objects and takes none; push to "
                "the object store or the directory that it shows"
            ) from None
        except exceptions.BaseError as error:
            if _NOT_LISTED.search(str(error)):
                raise refusal(
                    f"{self.name} cannot list what it holds, and a remote is read by listings: it is a web server "
                    "without WebDAV; serve it by one that has it (such as `rclone serve webdav DIRECTORY`), or use the "
                    "object store or the directory that it shows"
                ) from None
            raise RemoteError(f"{self.name} cannot be used ({key}): {_shortened(error)}") from None


def _as_list(keys: Sequence[str]) -> Any:  # `list` is a method above
    """The keys as obstore takes them."""
    return [*keys]


def _store(address: RemoteAddress, seconds: float, *, one_by_one: bool = False) -> Any:
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
    }
    service = _service(address.url)
    endpoint = address.endpoint
    if endpoint is None and service == "s3":
        endpoint = next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), None)
    if (endpoint or address.url).startswith("http://"):
        client["allow_http"] = True
    bundle = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), None)
    if bundle is not None:
        with open(bundle, "rb") as file:
            client["root_certificate"] = file.read()
    options: dict[str, Any] = {"client_options": client, "retry_config": _RETRY}
    if endpoint is not None:
        options["endpoint"] = endpoint
    if address.anonymous and service != "http":
        options["skip_signature"] = True
    if service == "gs" and not address.anonymous:
        check_google(address.url)
    elif service == "az":
        if not address.anonymous:
            check_azure(address.url)
        check_azure_account(address.url)
    elif service == "s3":
        if not address.url.startswith("https:"):  # which says it
            options["region"] = (
                address.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            )
        if one_by_one:
            options["disable_bulk_delete"] = True
        is_open = address.anonymous
        provider = None if is_open else s3_provider(address.url, address.profile, address.credential_process)
        if provider is not None:
            options["credential_provider"] = provider
    return from_url(address.url, **options)


def _service(url: str) -> str:
    """Whose credentials a URL needs: s3, gs, az, or http for nobody's."""
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    if scheme in ("s3", "s3a") or host.endswith((".amazonaws.com", ".r2.cloudflarestorage.com")):
        return "s3"
    if scheme == "gs":
        return "gs"
    is_azure = scheme not in ("http", "https") or host.endswith((".windows.net", ".fabric.microsoft.com"))
    return "az" if is_azure else "http"


def _shortened(error: BaseException) -> str:
    """The beginning of what a library says, without queries, in which signatures are, and without its inner values."""
    said, _, inner = str(error).partition(_INNER)
    text = " ".join(_QUERY.sub("", said).split())
    text = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
    reasons = [reason for reason in _REASON.findall(inner) if reason not in text]
    return f"{text}: {reasons[-1]}" if reasons else text
