from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from casstore.archive import limits
from casstore.archive.limits import Budget
from casstore.archive.links import ArchiveLink, Resolver
from casstore.errors import UnsafeArchive


def pack(*members: tuple[str, Any]) -> bytes:
    """Bytes make a file (executable with ! behind the name), None a directory, "-> x" a link, "= x" a hard link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name.removesuffix("!"))
            info.mode = 0o755 if name.endswith("!") else 0o644
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                info.linkname = content.partition(" ")[2]
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("f", b"1"), ("l", "-> f")], {"f": b"1", "l": b"1"}),
        ([("l", "-> f"), ("f", b"1")], {"f": b"1", "l": b"1"}),
        ([("f!", b"1"), ("l", "-> f"), ("h", "= f")], {"f!": b"1", "l!": b"1", "h!": b"1"}),
        ([("d/f", b"1"), ("d/e/l", "-> ../f")], {"d/f": b"1", "d/e/l": b"1"}),
        ([("d/f", b"1"), ("l", "-> ./d//../d/f")], {"d/f": b"1", "l": b"1"}),
        ([("f", b"1"), ("a", "-> b"), ("b", "-> c"), ("c", "-> f")], {"f": b"1", "a": b"1", "b": b"1", "c": b"1"}),
        ([("a", "= b"), ("b", "= f"), ("f", b"1")], {"f": b"1", "a": b"1", "b": b"1"}),
        ([("d/f", b"1"), ("d/h", "= d/f"), ("d/l", "-> h")], {"d/f": b"1", "d/h": b"1", "d/l": b"1"}),
        ([("d/f", b"1"), ("d/e", None), ("l", "-> d")], {"d/f": b"1", "d/e": None, "l/f": b"1", "l/e": None}),
        ([("d", None), ("l", "-> d")], {"d": None, "l": None}),
        ([("d/f", b"1"), ("l", "-> d"), ("m", "-> l/f")], {"d/f": b"1", "l/f": b"1", "m": b"1"}),
        ([("d/f", b"1"), ("d/g", "-> f"), ("l", "-> d")], {"d/f": b"1", "d/g": b"1", "l/f": b"1", "l/g": b"1"}),
        # What is a link's parent is decided by where it really stands, as a file system does.
        ([("a/b/f", b"1"), ("a/g", b"2"), ("l", "-> a/b"), ("m", "-> l/../g")],
         {"a/b/f": b"1", "a/g": b"2", "l/f": b"1", "m": b"2"}),
        ([("a/f", b"1"), ("b/l", "-> ../a"), ("c", "-> b")], {"a/f": b"1", "b/l/f": b"1", "c/l/f": b"1"}),
        ([("a/f", b"1"), ("a/l", "-> ../b"), ("b/g", b"2"), ("c", "-> a")],
         {"a/f": b"1", "a/l/g": b"2", "b/g": b"2", "c/f": b"1", "c/l/g": b"2"}),
        ([("model.yaml", b"1"), ("l", "-> model.yaml"), ("h", "= model.yaml")], {"l": b"1", "h": b"1"}),
        ([("d/model.yaml", b"1"), ("l", "-> d")], {"d/model.yaml": b"1", "l/model.yaml": b"1"}),
        ([("f", b"1"), *((f"{n}", f"-> {n + 1}") for n in range(39)), ("39", "-> f")],
         {"f": b"1", **{f"{n}": b"1" for n in range(40)}}),
    ],
)  # fmt: skip
def test_links_become_copies(read: Callable[..., Any], members: list[Any], expected: Any) -> None:
    assert read(pack(*members))[1] == expected


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("l", "-> /etc/passwd")], "'l' in the archive is a link to '/etc/passwd', an absolute path"),
        ([("l", "-> ../f")], "'l' in the archive is a link to '../f', which leads out of the archive"),
        ([("d/l", "-> ../../f")], "leads out of the archive"),
        ([("f", b""), ("d", None), ("d/l", "-> ../x/../../d/f")], "'../x/../../d/f', which is not in the archive"),
        ([("l", "-> nowhere")], "'l' in the archive is a link to 'nowhere', which is not in the archive"),
        ([("l", "-> " + "n" * 300)], "which is not in the archive"),
        ([("l", "-> ")], "'l' in the archive is a link without a target"),
        ([("f", b""), ("l", "-> f/x")], "is a link to 'f/x', and 'f' is not a directory"),
        ([("f", b""), ("l", "-> f/../f")], "and 'f' is not a directory"),
        ([("l", "-> l")], "'l' in the archive leads in a circle, or through more than 40 links"),
        ([("a", "-> b"), ("b", "-> a")], "leads in a circle"),
        ([("a", "= b"), ("b", "= a")], "leads in a circle"),
        ([("l", "-> l/x")], "leads in a circle"),
        ([("f", b""), *((f"{n}", f"-> {n + 1}") for n in range(40)), ("40", "-> f")], "through more than 40 links"),
        ([("f", b""), ("40", "-> f"), *((f"{n}", f"-> {n + 1}") for n in reversed(range(40)))], "more than 40 links"),
        ([("d/l", "-> ../d")], "'d/l' in the archive is a link to a directory that contains it"),
        ([("l", "-> .")], "is a link to a directory that contains it"),
        ([("d/e/l", "-> ..")], "is a link to a directory that contains it"),
        ([("a/l", "-> ../b"), ("b/m", "-> ../a")], "is a link to a directory that contains it"),
        ([("l", "= /etc/passwd")], "'/etc/passwd' in the archive is an absolute path"),
        ([("l", "= ../f")], "leads out of the archive"),
        ([("l", "= nowhere")], "'l' in the archive is a hard link to 'nowhere', which is not a file"),
        ([("l", "= ")], "has an empty name"),
        ([("d", None), ("l", "= d")], "is a hard link to 'd', which is not a file"),
        ([("f", b""), ("s", "-> f"), ("l", "= s")], "is a hard link to 's', which is not a file"),
        ([("l", "= l")], "leads in a circle"),
        ([("d/f", b""), ("s", "-> d"), ("l", "= s/f")], "is a hard link to 's/f', which is not a file"),
        ([("l", "-> d"), ("d", None), ("l/f", b"")], "'l' in the archive leads through the link 'l'"),
        ([("l", "-> d"), ("d", None), ("l/e/f", b"")], "'l/e' in the archive leads through the link 'l'"),
        ([("l", "-> ."), ("l", b"")], "'l' is in the archive twice"),
        ([("l", b""), ("l", "-> .")], "'l' is in the archive twice"),
        ([("l/f", b""), ("l", "-> .")], "'l' in the archive is both a directory and a file or link"),
        ([("l", "-> d"), ("d", None), ("l", None)], "leads through the link 'l'"),
        ([("f", b""), ("a", "-> f"), ("A", "-> f")], "differ only by case"),
        ([("f", b""), ("model.yaml", "-> f")], "'model.yaml' in the archive is a link"),
        ([("f", b""), (".", "-> f")], "'.' in the archive is a link"),
        ([("f", b""), ("../l", "-> f")], "leads out of the archive"),
        ([("a/" + "d/" * 139 + "f", b""), ("b/" * 60 + "l", "-> " + "../" * 60 + "a")], "nested more than 200"),
        ([("a/" + "d/" * 150 + "f", b""), ("b/" * 60 + "l", "-> " + "../" * 60 + "a")], "nested more than 200"),
    ],
)  # fmt: skip
def test_links_that_lead_nowhere_good(read: Callable[..., Any], members: list[Any], message: str) -> None:
    with pytest.raises(UnsafeArchive, match=message):
        read(pack(*members))


def test_links_to_directories_count_against_the_limits(
    read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten links in each of so many levels: few bytes, and without limits more files than any disk holds."""
    members: list[tuple[str, Any]] = [("0/f", b"x" * 100_000)]
    members += [(f"{level}/l{n}", f"-> ../{level - 1}") for level in range(1, 10) for n in range(10)]
    archive = pack(*members)
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 20)
    with pytest.raises(UnsafeArchive, match="more than 100 times its size"):
        read(archive)
    monkeypatch.setattr(limits, "MAX_MEMBERS", 1000)
    with pytest.raises(UnsafeArchive, match="more than 1,000 members"):
        read(archive, budget=Budget(trust=True))


def test_links_take_bounded_memory(read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_LINK_BYTES", 10_000)
    with pytest.raises(UnsafeArchive, match="links of the archive take more than 10,000 bytes of paths"):
        read(pack(("f", b""), *((f"{n}", "-> " + "./" * 100 + "f") for n in range(100))))


def test_long_ways_are_walked_once() -> None:
    """Else 40 links that lead through one another make 20 times as many steps."""
    asked = []

    def kind(path: str) -> str:
        asked.append(path)
        return "file" if path == "f" else "directory"

    links = {f"{n}": ArchiveLink("d/../" * 100 + (f"{n - 1}" if n else "f"), is_hard=False) for n in range(40)}
    resolver = Resolver(links, kind)
    assert {resolver.locate(path) for path in reversed(links)} == {"f"}
    assert len(asked) <= 40 * 201
