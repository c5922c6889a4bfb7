"""casstore: a content-addressed store for trained models. Start with `Store`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from casstore.late import LateModule
from casstore.release import __version__

if TYPE_CHECKING:
    from casstore.actions.comparing.difference import (
        Change,
        Diff,
        DocumentChange,
        FileChange,
        Layer,
        Metric,
        TensorChange,
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
    from casstore.actions.signatures import Signature, SignatureCheck
    from casstore.actions.tensors.info import TensorInfo
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
        InvalidSignature,
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
    from casstore.opening import store_at
    from casstore.progress import Progress
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
    "InvalidSignature",
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
    "Signature",
    "SignatureCheck",
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
    "store_at",
]

# Where each name is. It is imported when it is first used, so that what needs little starts quickly.
_NAMES = {
    "casstore.actions.comparing.difference": (
        "Change", "Diff", "DocumentChange", "FileChange", "Layer", "Metric", "TensorChange",
        "ValueChange", "Values",
    ),
    "casstore.actions.exchange.adopt": ("AdoptReport", "Refused"),
    "casstore.actions.exchange.backup": ("BackupReport",),
    "casstore.actions.exchange.pull_files": ("PulledFiles",),
    "casstore.actions.exchange.push": ("Pushed",),
    "casstore.actions.exchange.remote_versions": ("RemoteStatus",),
    "casstore.actions.exchange.sync_tree": ("SyncReport",),
    "casstore.actions.gc.report": ("GcReport", "GcStep"),
    "casstore.actions.health.rebuild": ("RebuildReport",),
    "casstore.actions.health.repair": ("RepairReport",),
    "casstore.actions.health.verify": ("Damage", "VerifyReport"),
    "casstore.actions.registry.forgetting": ("ForgetPlan", "PlannedVersion"),
    "casstore.actions.registry.likeness": ("LikelyParent",),
    "casstore.actions.registry.lineage": ("Lineage", "Relative"),
    "casstore.actions.registry.rules": ("KeepRules",),
    "casstore.actions.registry.trash": ("DeletedVersion",),
    "casstore.actions.saving.drafts": ("KeptDraft",),
    "casstore.actions.sharing": ("InitReport",),
    "casstore.actions.signatures": ("Signature", "SignatureCheck"),
    "casstore.actions.tensors.info": ("TensorInfo",),
    "casstore.annotated": ("Annotation",),
    "casstore.catalog.aliases": ("Alias", "AliasMove"),
    "casstore.catalog.events": ("Event",),
    "casstore.catalog.remotes": ("Elsewhere",),
    "casstore.catalog.usage": ("EncodingUsage", "Usage"),
    "casstore.digest": ("Digest",),
    "casstore.draft": ("Draft",),
    "casstore.errors": (
        "AliasMoved", "AliasProtected", "AmbiguousTag", "CasstoreError", "CatalogDamaged", "FileChanged",
        "IntegrityError", "InvalidMetadata", "InvalidPolicy", "InvalidQuery", "InvalidSetting", "InvalidSignature",
        "InvalidSource", "InvalidTag", "NoRemote", "OutcomeUnknown", "ReadOnly", "RemoteError", "RemoteNotFound",
        "RemoteUnsafe", "SQLiteTooOld", "StoreError", "StoreLocked", "StoreNotFound", "StoreTooNew",
        "StoreUnwritable", "TagExists", "TagNotFound", "UnsafeArchive", "UnsupportedFormat", "UntrustedObjects",
        "VersionAliased",
    ),
    "casstore.model": ("Imported", "Model"),
    "casstore.opening": ("store_at",),
    "casstore.progress": ("Progress",),
    "casstore.remote.collect": ("OpenPush", "RemoteGcReport"),
    "casstore.remote.documents": ("Ref",),
    "casstore.remote.repacking": ("RemoteRepackReport",),
    "casstore.remote.verifying": ("RemoteReport",),
    "casstore.remotes": ("Pulled", "Remote", "RemoteModel"),
    "casstore.settings": ("SETTINGS",),
    "casstore.storage.coding.kernels": ("kernels_in_use",),
    "casstore.storage.manifest": ("Base", "FileEntry"),
    "casstore.storage.parents": ("Parent",),
    "casstore.store": ("Store",),
    "casstore.tag": ("Tag", "slug"),
}  # fmt: skip
_PLACES = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = {module.split(".")[1]: ".".join(module.split(".")[:2]) for module in _NAMES}

if not TYPE_CHECKING:  # which would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name in _PLACES:
            found = getattr(import_module(_PLACES[name]), name)
        elif name in _MODULES:  # `import casstore` is enough for casstore.errors and the like
            return LateModule(_MODULES[name])
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
