"""casstore: a content-addressed store for trained models. Start with `Store`."""

from casstore.actions.comparing.difference import (
    Change,
    Diff,
    DocumentChange,
    FileChange,
    Layer,
    Metric,
    TensorChange,
    TensorInfo,
    ValueChange,
    Values,
)
from casstore.actions.exchange.adopt import AdoptReport, Refused
from casstore.actions.exchange.backup import BackupReport
from casstore.actions.exchange.pull_files import PulledFiles
from casstore.actions.exchange.push import Pushed
from casstore.actions.exchange.remote_versions import RemoteStatus
from casstore.actions.exchange.sync_tree import SyncReport
from casstore.actions.gc.report import GcReport, GcStep
from casstore.actions.health.rebuild import RebuildReport
from casstore.actions.health.repair import RepairReport
from casstore.actions.health.verify import Damage, VerifyReport
from casstore.actions.registry.forgetting import ForgetPlan, PlannedVersion
from casstore.actions.registry.likeness import LikelyParent
from casstore.actions.registry.lineage import Lineage, Relative
from casstore.actions.registry.rules import KeepRules
from casstore.actions.registry.trash import DeletedVersion
from casstore.actions.saving.drafts import KeptDraft
from casstore.actions.sharing import InitReport
from casstore.annotated import Annotation
from casstore.catalog.aliases import Alias, AliasMove
from casstore.catalog.events import Event
from casstore.catalog.remotes import Elsewhere
from casstore.catalog.usage import EncodingUsage, Usage
from casstore.digest import Digest
from casstore.draft import Draft
from casstore.errors import (
    AliasMoved,
    AliasProtected,
    AmbiguousTag,
    CasstoreError,
    CatalogDamaged,
    FileChanged,
    IntegrityError,
    InvalidMetadata,
    InvalidPolicy,
    InvalidQuery,
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
    VersionAliased,
)
from casstore.model import Imported, Model
from casstore.progress import Progress
from casstore.release import __version__
from casstore.remote.collect import OpenPush, RemoteGcReport
from casstore.remote.documents import Ref
from casstore.remote.repacking import RemoteRepackReport
from casstore.remote.verifying import RemoteReport
from casstore.remotes import Pulled, Remote, RemoteModel
from casstore.settings import SETTINGS
from casstore.storage.coding.kernels import kernels_in_use
from casstore.storage.manifest import Base, FileEntry
from casstore.storage.parents import Parent
from casstore.store import Store
from casstore.tag import Tag, slug

__all__ = [
    "SETTINGS",
    "AdoptReport",
    "Alias",
    "AliasMove",
    "AliasMoved",
    "AliasProtected",
    "AmbiguousTag",
    "Annotation",
    "BackupReport",
    "Base",
    "CasstoreError",
    "CatalogDamaged",
    "Change",
    "Damage",
    "DeletedVersion",
    "Diff",
    "Digest",
    "DocumentChange",
    "Draft",
    "Elsewhere",
    "EncodingUsage",
    "Event",
    "FileChange",
    "FileChanged",
    "FileEntry",
    "ForgetPlan",
    "GcReport",
    "GcStep",
    "Imported",
    "InitReport",
    "IntegrityError",
    "InvalidMetadata",
    "InvalidPolicy",
    "InvalidQuery",
    "InvalidSetting",
    "InvalidSource",
    "InvalidTag",
    "KeepRules",
    "KeptDraft",
    "Layer",
    "LikelyParent",
    "Lineage",
    "Metric",
    "Model",
    "NoRemote",
    "OpenPush",
    "OutcomeUnknown",
    "Parent",
    "PlannedVersion",
    "Progress",
    "Pulled",
    "PulledFiles",
    "Pushed",
    "ReadOnly",
    "RebuildReport",
    "Ref",
    "Refused",
    "Relative",
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
    "TensorChange",
    "TensorInfo",
    "UnsafeArchive",
    "UnsupportedFormat",
    "UntrustedObjects",
    "Usage",
    "ValueChange",
    "Values",
    "VerifyReport",
    "VersionAliased",
    "__version__",
    "kernels_in_use",
    "slug",
]
