"""Where an archive is, from BentoML's arguments: a path, or a URL in parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

# What BentoML once called local files.
_LOCAL_PROTOCOLS = {None, "", "file", "osfs", "tar", "zip"}


def build(
    path: str,
    *,
    protocol: str | None = None,
    user: str | None = None,
    passwd: str | None = None,
    params: Mapping[str, str] | None = None,
    subpath: str | None = None,
) -> str:
    """The local path or the URL that is meant: `my_bucket/m.tar` with the protocol `s3` is `s3://my_bucket/m.tar`.

    Raises ValueError when `path` is a URL already, and parts of one are given as well.
    """
    path = os.fspath(path)
    if "://" in path:
        if any(part is not None for part in (protocol, user, passwd, params, subpath)):
            raise ValueError(f"{path} is a whole URL; write protocol, user, passwd, params and subpath into it")
        scheme, rest = path.split("://", 1)
        return rest if scheme in _LOCAL_PROTOCOLS else _with_path(path)
    if protocol in _LOCAL_PROTOCOLS:
        return path if subpath is None else os.path.join(path, subpath.lstrip("/"))
    account = quote(user or "", safe="") + (f":{quote(passwd, safe='')}" if passwd is not None else "")
    host, _, inner = path.partition("/") if subpath is None else (path, "", subpath)
    place = f"{account}@{host}" if account else host
    return _with_path(urlunsplit((protocol, place, inner, urlencode(params or {}), "")))


def _with_path(url: str) -> str:
    """A host or bucket alone means the directory at its top."""
    parts = urlsplit(url)
    return url if parts.path else urlunsplit(parts._replace(path="/"))
