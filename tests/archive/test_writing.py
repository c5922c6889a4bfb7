from __future__ import annotations

import gc
import io
import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from casstore.archive import compression
from casstore.archive.formats import Format
from casstore.archive.writing import open_writer
from casstore.errors import IntegrityError, InvalidSource, UnsafeArchive
from tests.kit import noise

ARCHIVES = [form for form in Format if form not in (Format.FOLDER, Format.CASMODEL)]
each = pytest.mark.parametrize("form", ARCHIVES)


def threads() -> int:
    return sum(thread.name.startswith("casstore-compress") for thread in threading.enumerate())


@pytest.mark.parametrize("form", [Format.FOLDER, Format.CASMODEL])
def test_what_is_no_archive_is_not_written(form: Format) -> None:
    with pytest.raises(ValueError, match=f"{form.value} is not an archive to write"), open_writer(form, io.BytesIO()):
        pass


@each
def test_equal_input_gives_equal_bytes(monkeypatch: pytest.MonkeyPatch, form: Format) -> None:
    """However many threads there are, and however the content comes."""
    monkeypatch.setattr(compression, "BLOCK_BYTES", 1 << 16)
    content = noise(300_000) + bytes(600_000) + noise(100_000, 1)

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 10_001))

    written = []
    for count, kind in ((1, io.BytesIO), (2, Slow), (40, io.BytesIO), (None, io.BytesIO)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        buffer = io.BytesIO()
        with open_writer(form, buffer, mtime_s=86_400 * 5000) as writer:
            writer.add_directory("d")
            writer.add_file("d/f", len(content), True, kind(content))
        written.append(buffer.getvalue())
        assert threads() == 0
    assert len(set(written)) == 1


@each
@pytest.mark.parametrize("size", [0, 999, 1001, 5 << 20])
def test_content_of_another_size_is_refused(read: Callable[..., Any], form: Format, size: int) -> None:
    buffer = io.BytesIO()
    content = io.BytesIO(bytes(1000))
    message = (
        "'f' has [0-9,]+ bytes fewer than its size" if size > 1000 else f"'f' has more bytes than its size of {size}"
    )
    with pytest.raises(IntegrityError, match=message), open_writer(form, buffer) as writer:
        writer.add_file("f", size, False, content)
    assert threads() == 0
    with pytest.raises(InvalidSource):
        read(buffer.getvalue())


@each
def test_an_exception_leaves_no_whole_archive(read: Callable[..., Any], form: Format) -> None:
    buffer = io.BytesIO()
    context = open_writer(form, buffer)
    writer = context.__enter__()
    writer.add_file("f", 5 << 20, False, io.BytesIO(bytes(5 << 20)))
    assert context.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is False
    written = buffer.getvalue()
    del writer, context
    gc.collect()
    assert buffer.getvalue() == written
    assert threads() == 0
    with pytest.raises(InvalidSource):
        read(written)


@each
def test_closing_completes_and_may_be_repeated(read: Callable[..., Any], form: Format) -> None:
    buffer = io.BytesIO()
    with open_writer(form, buffer) as writer:
        writer.add_file("f", 1, False, io.BytesIO(b"1"))
        writer.close()
        written = buffer.getvalue()
        writer.close()
    assert buffer.getvalue() == written
    assert not buffer.closed
    assert read(written)[1] == {"f": b"1"}


class Full:
    """A disk that takes so many bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return len(data)


@each
@pytest.mark.parametrize("size", [0, 100, 1 << 19])
def test_errors_of_the_sink_come_through(monkeypatch: pytest.MonkeyPatch, form: Format, size: int) -> None:
    monkeypatch.setattr(compression, "BLOCK_BYTES", 1 << 16)
    content = noise(1 << 20)
    with pytest.raises(OSError, match="No space left"), open_writer(form, Full(size)) as writer:  # type: ignore[arg-type]
        writer.add_file("f", len(content), False, io.BytesIO(content))
    assert threads() == 0


@each
def test_errors_of_the_content_come_through(form: Format) -> None:
    class Broken(io.BytesIO):
        def read(self, _: int | None = -1, /) -> NoReturn:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"), open_writer(form, io.BytesIO()) as writer:
        writer.add_file("f", 10, False, Broken())
    assert threads() == 0


@pytest.mark.parametrize("taken", [0, None])
def test_a_sink_that_takes_nothing(taken: Any) -> None:
    class Stuck:
        def write(self, _: bytes) -> Any:
            return taken

    with pytest.raises(OSError, match="took no bytes"), open_writer(Format.TAR, Stuck()) as writer:  # type: ignore[arg-type]
        writer.add_directory("d")


@each
@pytest.mark.parametrize("path", ["../f", "/f", "a\\b", "C:f", "a" * 256, ""])
def test_names_that_could_not_be_unpacked_are_not_written(form: Format, path: str) -> None:
    with pytest.raises(UnsafeArchive), open_writer(form, io.BytesIO()) as writer:
        writer.add_file(path, 0, False, io.BytesIO())
    with pytest.raises(UnsafeArchive), open_writer(form, io.BytesIO()) as writer:
        writer.add_directory(path)


class Endless(Exception):
    pass


def test_sizes_beyond_four_and_eight_gigabytes_are_written() -> None:
    """Only the headers: the content stops the test."""

    class Start:
        def read(self, _: int, /) -> bytes:
            raise Endless

    for form, needle in ((Format.TAR, b"size=9663676416\n"), (Format.ZIP, b"f\1\0\x10\0")):
        sink = io.BytesIO()
        with pytest.raises(Endless), open_writer(form, sink) as writer:
            writer.add_file("f", 9 << 30, False, Start())
        assert needle in sink.getvalue()
