"""casstore: a content-addressed store for trained models. Start with `Store`."""

from casstore.actions.exchange.adopt import AdoptReport, Refused
from casstore.actions.exchange.backup import BackupReport
from casstore.actions.exchange.push import Pushed
from casstore.actions.exchange.remote_versions import RemoteStatus
from casstore.actions.exchange.sync_tree import SyncReport
from casstore.actions.gc.report import GcReport, GcStep
from casstore.actions.health.rebuild import RebuildReport
from casstore.actions.health.repair import RepairReport
from casstore.actions.health.verify import Damage, VerifyReport
from casstore.actions.saving.drafts import KeptDraft
from casstore.actions.sharing import InitReport
from casstore.annotated import Annotation
from casstore.catalog.events import Event
from casstore.catalog.remotes import Elsewhere
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
    OutcomeUnknown,
    ReadOnly,
    RemoteError,
    RemoteNotFound,
    RemoteUnsafe,
    SQLiteTooOld,
    StoreError,
    StoreLocked,
    StoreNotFound,
    StoreTooNew,
    StoreUnwritable,
    TagExists,
    TagNotFound,
    UnsafeArchive,
    UnsupportedFormat,
    UntrustedObjects,
)
from casstore.model import Imported, Model
from casstore.progress import Progress
from casstore.release import __version__
from casstore.remote.collect import RemoteGcReport
from casstore.remote.documents import Ref
from casstore.remote.repacking import RemoteRepackReport
from casstore.remote.verifying import RemoteReport
from casstore.remotes import Pulled, Remote, RemoteModel
from casstore.settings import SETTINGS
from casstore.storage.manifest import Base, FileEntry
from casstore.store import Store
from casstore.tag import Tag, slug

__all__ = [
    "SETTINGS",
    "AdoptReport",
    "AmbiguousTag",
    "Annotation",
    "BackupReport",
    "Base",
    "CasstoreError",
    "CatalogDamaged",
    "Damage",
    "Digest",
    "Draft",
    "Elsewhere",
    "EncodingUsage",
    "Event",
    "FileChanged",
    "FileEntry",
    "GcReport",
    "GcStep",
    "Imported",
    "InitReport",
    "IntegrityError",
    "InvalidMetadata",
    "InvalidSetting",
    "InvalidSource",
    "InvalidTag",
    "KeptDraft",
    "Model",
    "NoRemote",
    "OutcomeUnknown",
    "Progress",
    "Pulled",
    "Pushed",
    "ReadOnly",
    "RebuildReport",
    "Ref",
    "Refused",
    "Remote",
    "RemoteError",
    "RemoteGcReport",
    "RemoteModel",
    "RemoteNotFound",
    "RemoteRepackReport",
    "RemoteReport",
    "RemoteStatus",
    "RemoteUnsafe",
    "RepairReport",
    "SQLiteTooOld",
    "Store",
    "StoreError",
    "StoreLocked",
    "StoreNotFound",
    "StoreTooNew",
    "StoreUnwritable",
    "SyncReport",
    "Tag",
    "TagExists",
    "TagNotFound",
    "UnsafeArchive",
    "UnsupportedFormat",
    "UntrustedObjects",
    "Usage",
    "VerifyReport",
    "__version__",
    "slug",
]
