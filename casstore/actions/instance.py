"""Telling a store from a copy of it: what stat said of the original's files says nothing of the copy's.

A store that was copied, restored from a backup, unpacked or put into an image has other inodes, times and devices, and
numbers that one file had there another may have here. A file of known inode and change time, which no tool that copies
can give it back, shows that.
"""

from __future__ import annotations

import os
from pathlib import Path

from casstore.catalog.catalog import Catalog
from casstore.catalog.instances import Instance
from casstore.catalog.schema import SIDE_FILES
from casstore.errors import StoreError
from casstore.storage import files, sessions
from casstore.storage.layout import Layout, new_id


def check_only_name(layout: Layout) -> None:
    """Raise StoreError where the catalog is a hardlink of another store's, as `cp -al` makes it."""
    for path in (layout.catalog, *(Path(f"{layout.catalog}{suffix}") for suffix in SIDE_FILES)):
        try:
            is_shared = os.stat(path).st_nlink > 1
        except FileNotFoundError:
            continue
        if is_shared:
            raise StoreError(
                f"{path} has another name somewhere (a copy made of hardlinks, as by cp -al, has), and what is written "
                "through both damages it. When no process uses either store, give this one a file of its own: "
                f"cp -p {path} {path}.own && mv {path}.own {path}"
            )


def settle_instance(layout: Layout, catalog: Catalog) -> None:
    """Notice that the store has been copied, and forget what only the original's files bore out.

    May be cut short anywhere, and done by two processes at once. Raises OSError, StoreLocked.
    """
    recorded = catalog.instances.recorded()
    if _is_same(layout, recorded, catalog.boot_id):
        if recorded is not None and os.stat(layout.instance).st_dev != recorded.device:
            # Devices are numbered again at each boot.
            catalog.instances.note(_standing(layout, recorded.id, catalog.boot_id))
        return
    if catalog.instances.has_containers():
        # The rows say that its files are on disk, and the copies were not synced.
        files.sync_file_system(layout.home)
    catalog.instances.renew(
        lambda: _made(layout, catalog.boot_id),
        lambda found: _is_same(layout, found, catalog.boot_id),
        [each for each in catalog.leases.sessions() if not sessions.is_live(layout, each)],
    )


def adopt_instance(layout: Layout, catalog: Catalog) -> None:
    """Let a catalog that has just been made from the files as they stand go on as the instance that they are."""
    catalog.instances.note(_made(layout, catalog.boot_id))


def _made(layout: Layout, boot_id: str) -> Instance:
    """Write a new instance's file. Only one process does at a time: it holds the catalog's lock, or is alone.

    Synced, or a store that has lost it in a power cut would be taken for a copy.
    """
    name = new_id()
    data = f"{name}\n".encode()
    files.write_file(layout.instance, data, 0o444, temporary=layout.next_instance, durable=True)
    return _standing(layout, name, boot_id)


def _standing(layout: Layout, name: str, boot_id: str) -> Instance:
    status = os.lstat(layout.instance)
    return Instance(name, status.st_dev, status.st_ino, _changed_ns(status), boot_id)


def _is_same(layout: Layout, recorded: Instance | None, boot_id: str) -> bool:
    """Whether the file stands that was recorded, and has not been touched since."""
    try:
        status = os.lstat(layout.instance)
        if recorded is None or (status.st_ino, _changed_ns(status)) != (recorded.inode, recorded.ctime_ns):
            return False
        if status.st_dev == recorded.device:
            return True
        # A device may get another number at a boot; within one it is another file system.
        is_later = recorded.boot_id != boot_id
        return is_later and layout.instance.read_text(encoding="ascii").strip() == recorded.id
    except (OSError, UnicodeDecodeError):
        return False


def _changed_ns(status: os.stat_result) -> int:
    return status.st_ctime_ns
