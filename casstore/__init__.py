"""casstore: a content-addressed store for trained models. Start with `Store`."""

from casstore.actions.collect import GcReport, GcStep
from casstore.actions.rebuild import RebuildReport
from casstore.actions.repair import RepairReport
from casstore.actions.verify import Damage, VerifyReport
from casstore.catalog.usage import EncodingUsage, Usage
from casstore.digest import Digest
from casstore.draft import Draft
from casstore.errors import (
    AmbiguousTag,
    CasstoreError,
    CatalogDamaged,
    FileChanged,
    IntegrityError,
    InvalidMetadata,
    InvalidSetting,
    InvalidSource,
    InvalidTag,
    NoRemote,
    SQLiteTooOld,
    StoreError,
    StoreLocked,
    StoreTooNew,
    StoreUnwritable,
    TagExists,
    TagNotFound,
    UnsafeArchive,
    UnsupportedFormat,
)
from casstore.model import Model
from casstore.progress import Progress
from casstore.release import __version__
from casstore.settings import SETTINGS
from casstore.storage.manifest import Base, FileEntry
from casstore.store import Store
from casstore.tag import Tag

__all__ = [
    "SETTINGS",
    "AmbiguousTag",
    "Base",
    "CasstoreError",
    "CatalogDamaged",
    "Damage",
    "Digest",
    "Draft",
    "EncodingUsage",
    "FileChanged",
    "FileEntry",
    "GcReport",
    "GcStep",
    "IntegrityError",
    "InvalidMetadata",
    "InvalidSetting",
    "InvalidSource",
    "InvalidTag",
    "Model",
    "NoRemote",
    "Progress",
    "RebuildReport",
    "RepairReport",
    "SQLiteTooOld",
    "Store",
    "StoreError",
    "StoreLocked",
    "StoreTooNew",
    "StoreUnwritable",
    "Tag",
    "TagExists",
    "TagNotFound",
    "UnsafeArchive",
    "UnsupportedFormat",
    "Usage",
    "VerifyReport",
    "__version__",
]
