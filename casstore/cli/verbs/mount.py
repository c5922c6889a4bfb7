"""casstore mount"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from casstore.cli.mounted import Mounted
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, is_screen, printable, show_json

_EXAMPLES = """\b
Examples:
  mkdir models && casstore mount models        and in another terminal:
  ls models                                    every version
  cat models/bert:v1/config.json
  cat models/bert@prod/config.json             the version that an alias means; bert/ is the newest
  fusermount -u models                         or Ctrl-C in the first terminal
"""
_DEVICE = "/dev/fuse"


@click.command(short_help="Show the store as a read-only directory tree, by FUSE.", epilog=_EXAMPLES)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@common_options
@pass_options
def mount(options: Options, directory: str) -> None:
    """Show all versions of the store below DIR, an empty directory, for programs that know only files.

    DIR/NAME:VERSION/ has the files of a version, read straight from the store and checked on their way; no directory is
    made in the store. DIR lists the versions; DIR/NAME/ and DIR/NAME@ALIAS/ are there too, though not listed: symbolic
    links to what they mean now, so that a file, once open, stays that of one version. Nothing can be written. Versions
    that are only in a remote are not there: `casstore pull` them first.

    The command runs until DIR is unmounted. It needs Linux or macOS with FUSE 2, and `pip install 'casstore[mount]'`.
    """
    with options.open_store() as store:
        home = str(store.home)
    fuse, fsspec = _needed()
    _check(directory)
    system = fsspec.filesystem("casstore", home=home, pull=False)
    shown = printable(directory) if is_screen() else directory

    def ready() -> None:
        if options.json:
            show_json({"directory": os.path.abspath(directory), "home": home})
        else:
            click.echo(f"{shown} shows the versions of {home}, read-only")
        sys.stdout.flush()
        hint(options, f"`{_unmount()} {shown}`, or Ctrl-C here, unmounts it")

    try:
        fuse.FUSE(
            Mounted(system, ready), directory, encoding=sys.getfilesystemencoding(), foreground=True, nothreads=True,
            ro=True, fsname="casstore", default_permissions=True, raw_fi=True,
        )  # fmt: skip
    except RuntimeError as error:  # what libfuse says of it has gone to stderr
        raise click.ClickException(
            f"{shown} could not be mounted: FUSE gave up with {error}; what it said stands above. Users other than "
            "root need the program fusermount (the package fuse or fuse3)"
        ) from error


def _needed() -> tuple[Any, Any]:
    """fusepy and fsspec. Raises ClickException where one, or the library of FUSE, is not there."""
    try:
        import fsspec
        import fuse

        fuse.FUSE  # noqa: B018 - another package has a module of this name, too
    except (ImportError, AttributeError) as error:
        raise click.ClickException(
            f"mounting needs the Python packages fsspec and fusepy ({error}): pip install 'casstore[mount]'"
        ) from error
    except OSError as error:
        raise click.ClickException(
            f"mounting needs the library of FUSE 2 ({error}): apt install libfuse2, dnf install fuse-libs, or on macOS "
            "macFUSE; without it, `casstore checkout` copies a version and `casstore path` gives the directory of one"
        ) from error
    if sys.platform == "linux" and not os.path.exists(_DEVICE):
        raise click.ClickException(
            f"mounting needs {_DEVICE}, which is not here: `modprobe fuse`, or in a container "
            f"`docker run --device {_DEVICE} --cap-add SYS_ADMIN`; without it, `casstore checkout` copies a version"
        )
    return fuse, fsspec


def _check(directory: str) -> None:
    """Raises ClickException unless it is an empty directory."""
    shown = printable(directory)
    try:
        is_empty = not os.listdir(directory)
    except FileNotFoundError as error:
        raise click.ClickException(f"{shown} is not there; make it first: mkdir {shown}") from error
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        raise click.ClickException(
            f"{shown} is still mounted by a process that is gone; `{_unmount()} {shown}` unmounts it"
        ) from error
    if not is_empty:
        raise click.ClickException(
            f"{shown} is not empty, or mounted already (then `{_unmount()} {shown}` unmounts it); give an empty "
            "directory"
        )


def _unmount() -> str:
    return "fusermount -u" if sys.platform == "linux" else "umount"
