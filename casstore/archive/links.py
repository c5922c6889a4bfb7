"""Where links in an archive lead, found without ever making one on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from casstore.archive import limits
from casstore.archive.names import clean, show
from casstore.errors import UnsafeArchive


@dataclass(frozen=True, slots=True)
class ArchiveLink:
    """A symbolic link, whose target is relative to its own directory; with `is_hard`, to the archive's root."""

    target: str
    is_hard: bool


class Resolver:
    """Follows links as path_resolution(7) says, among the members of one archive.

    `kind` tells what stands at a path that is not a link: "directory", "file" or None.
    """

    def __init__(self, links: Mapping[str, ArchiveLink], kind: Callable[[str], str | None]) -> None:
        self._links = links
        self._kind = kind
        # Each link is walked once, or long chains of long targets would take hours.
        self._found: dict[str, tuple[str, int]] = {}

    def locate(self, path: str) -> str:
        """The path of the file or directory that the link at `path` leads to in the end; "" is the root.

        Raises UnsafeArchive for one that leads outside or nowhere, in a circle or through too many others.
        """
        return self._follow(path, path, 1)[0]

    def _follow(self, path: str, first: str, depth: int) -> tuple[str, int]:
        if depth > limits.MAX_LINK_HOPS:
            _refuse(first, f"leads in a circle, or through more than {limits.MAX_LINK_HOPS} links")
        known = self._found.get(path)
        if known is None:
            link = self._links[path]
            known = self._follow_hard(path, link, depth) if link.is_hard else self._walk(path, link, depth)
            self._found[path] = known
        if known[1] > limits.MAX_LINK_HOPS:
            _refuse(first, f"leads through more than {limits.MAX_LINK_HOPS} links")
        return known

    def _follow_hard(self, path: str, link: ArchiveLink, depth: int) -> tuple[str, int]:
        target = clean(link.target)
        following = self._links.get(target)
        if following is not None and following.is_hard:
            found, hops = self._follow(target, path, depth + 1)
            return found, hops + 1
        if following is not None or self._kind(target) != "file":
            _refuse(path, f"is a hard link to {show(link.target)}, which is not a file in the archive")
        return target, 1

    def _walk(self, path: str, link: ArchiveLink, depth: int) -> tuple[str, int]:
        if not link.target:
            _refuse(path, "is a link without a target")
        if link.target.startswith("/"):
            _refuse(path, f"is a link to {show(link.target)}, an absolute path")
        stack = path.split("/")[:-1]
        hops = 1
        for part in link.target.split("/"):
            if part in ("", "."):
                continue
            here = "/".join(stack)
            if here and self._kind(here) != "directory":
                _refuse(path, f"is a link to {show(link.target)}, and {show(here)} is not a directory")
            if part == "..":
                if not stack:
                    _refuse(path, f"is a link to {show(link.target)}, which leads out of the archive")
                stack.pop()
                continue
            stack.append(part)
            here = "/".join(stack)
            if here in self._links:
                found, followed = self._follow(here, path, depth + 1)
                hops += followed
                stack = found.split("/") if found else []
            elif "\0" in part or self._kind(here) is None:
                _refuse(path, f"is a link to {show(link.target)}, which is not in the archive")
        return "/".join(stack), hops


def _refuse(path: str, why: str) -> NoReturn:
    raise UnsafeArchive(f"{show(path)} in the archive {why}; pack the archive again without it")
