"""The remotes that a store knows: `remotes.toml`, which holds no secret and may be edited by hand."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from casstore.actions import elsewhere_file
from casstore.actions.workspace import Workspace
from casstore.errors import InvalidSetting, NoRemote, RemoteError, StoreError
from casstore.remote.address import RemoteAddress
from casstore.storage import files
from casstore.storage.layout import Layout
from casstore.tag import Tag

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAME = re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?")
_MOST_NAMED = 10
_MOST_BYTES = 1 << 20
_HEADER = "# The remotes of this store. Credentials have no place here: see docs/remotes.md.\n"


@dataclass(frozen=True, slots=True)
class RemotesFile:
    """What the file says: remotes by name, and which one is meant where none is named."""

    remotes: Mapping[str, RemoteAddress] = field(default_factory=dict)
    default: str | None = None

    @property
    def meant(self) -> str | None:
        """The name of the remote that is meant where none is named."""
        only = next(iter(self.remotes)) if len(self.remotes) == 1 else None
        return self.default if self.default in self.remotes else only

    def address(self, name: str | None) -> RemoteAddress:
        """The remote of that name, or the one that is meant. Raises NoRemote."""
        chosen = name or self.meant
        if chosen is None:
            if not self.remotes:
                raise NoRemote("no remote is set up; `casstore remote add origin URL` does it")
            names = ", ".join(self.remotes)
            raise NoRemote(f"there are several remotes ({names}); name one, or choose: `casstore remote default NAME`")
        if chosen not in self.remotes:
            known = f"; there is {', '.join(self.remotes)}" if self.remotes else ""
            raise NoRemote(f"there is no remote {chosen!r}{known}; `casstore remote add {chosen} URL` sets it up")
        return self.remotes[chosen]


def read(workspace: Workspace) -> RemotesFile:
    """The store's remotes; none where there is no file. Raises RemoteError for one that cannot be read."""
    path = workspace.layout.remotes
    try:
        said = tomllib.loads(files.read_file(path, _MOST_BYTES).decode("utf-8"))
        remotes = {name: _address(values) for name, values in said.get("remote", {}).items()}
        default = said.get("default")
        if not isinstance(default, str | None):
            raise TypeError("default is not text")
        return RemotesFile(remotes, default)
    except FileNotFoundError:
        return RemotesFile()
    except (ValueError, TypeError, AttributeError) as error:
        raise RemoteError(f"{path} cannot be read: {error}; mend it, or remove it and add the remotes again") from error


def _address(values: Any) -> RemoteAddress:
    known = {each.name: values[each.name] for each in fields(RemoteAddress) if each.name in values}
    if "url" not in known:
        raise ValueError("a remote has no url")
    for key, value in known.items():
        if not isinstance(value, bool if key == "anonymous" else str):
            raise TypeError(f"{key} is not what it can be")
    return RemoteAddress(**known)


def check_new(workspace: Workspace, name: str) -> RemotesFile:
    """The remotes that there are, of which none is called so. Raises InvalidSetting, RemoteError."""
    if _NAME.fullmatch(name) is None:
        raise InvalidSetting(f"a remote cannot be called {name!r}: letters, digits, '-', '_' and '.', such as origin")
    found = read(workspace)
    if name in found.remotes:
        raise RemoteError(
            f"there is a remote {name!r} already, at {found.remotes[name].url}; remove it first: "
            f"`casstore remote remove {name}`"
        )
    return found


def add(workspace: Workspace, name: str, address: RemoteAddress) -> None:
    """Set a remote up; the first one is meant where none is named. Raises InvalidSetting, RemoteError."""
    found = check_new(workspace, name)
    _write(workspace, RemotesFile({**found.remotes, name: address}, found.default or name))


def remove(workspace: Workspace, name: str, *, force: bool = False) -> list[Tag]:
    """Forget a remote, and leave what stands there as it is; returns the versions that only it has, so far as known.

    Another remote at the same address takes its place for these. Raises NoRemote, and StoreError where there is none,
    unless `force`: then their names stay, for a remote that is called so again.
    """
    found = read(workspace)
    address = found.address(name)
    left = {other: each for other, each in found.remotes.items() if other != name}
    same = [other for other, each in left.items() if each.name == address.name and each.endpoint == address.endpoint]
    known = workspace.catalog.remotes
    alone = [each.tag for each in known.elsewhere() if each.remote == name]
    if alone and same:
        elsewhere_file.rename_remote(workspace, name, same[0])
        alone = []
    if alone and not force:
        tags = " ".join(map(str, alone[:_MOST_NAMED]))
        more = f" and {len(alone) - _MOST_NAMED:,} more" if len(alone) > _MOST_NAMED else ""
        raise StoreError(
            f"only the remote {name} has {tags}{more}, so it stays; bring them back: `casstore pull {tags} --from "
            f"{name}`; or, as where the remote has moved, keep their names alone: `casstore remote remove {name} "
            f"--force`, and add it again under that name"
        )
    _write(workspace, RemotesFile(left, None if found.default == name else found.default))
    if not any(each.name == address.name for each in left.values()):
        known.forget_at(address.name)
    return alone


def set_default(workspace: Workspace, name: str) -> None:
    """Have a remote meant where none is named. Raises NoRemote."""
    found = read(workspace)
    found.address(name)
    _write(workspace, RemotesFile(found.remotes, name))


def _write(workspace: Workspace, said: RemotesFile) -> None:
    workspace.check_writable()
    lines = [_HEADER]
    if said.default is not None:
        lines.append(f"default = {_quoted(said.default)}\n")
    for name, address in said.remotes.items():
        lines.append(f"\n[remote.{_quoted(name)}]\n")
        for each in fields(address):
            value = getattr(address, each.name)
            if value is not None and value is not False:
                lines.append(f"{each.name} = {'true' if value is True else _quoted(value)}\n")
    with workspace.session() as session:
        files.write_file(
            workspace.layout.remotes,
            "".join(lines).encode("utf-8"),
            0o666 & ~workspace.mask,
            temporary=session.new_path(),
            durable=True,
        )


def copy(source: Layout, target: Layout, temporary: Path) -> None:
    """Have a backup know the remotes of its store. Raises OSError."""
    try:
        text = files.read_file(source.remotes, _MOST_BYTES)
        mode = stat.S_IMODE(os.stat(source.remotes).st_mode)
    except FileNotFoundError:
        files.remove_file(target.remotes)
        return
    files.write_file(target.remotes, text, mode, temporary=temporary, durable=True)


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's is one, but for the character DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
