"""Every error that casstore raises on purpose.

* CasstoreError
  x InvalidTag             a name or version that cannot be a tag
  x TagNotFound            nothing is saved under this tag
  x AmbiguousTag           a version prefix that more than one version shares
  x TagExists              the tag is taken; saved versions never change
  x AliasMoved             an alias does not stand where it was expected
  x AliasProtected         a protected alias was to be moved or deleted
  x VersionAliased         a version was to be deleted that an alias names
  x InvalidMetadata        labels, metadata, signatures ... that cannot be recorded
  x ReadOnly               labels, metadata ... of a saved version were to be changed
  x InvalidSource          the files to be saved cannot be saved
    · FileChanged          a file changed while it was being saved
    · UnsafeArchive        an archive that would write elsewhere, expands too much, or contradicts itself
  x InvalidSignature       a signature is missing, damaged, of other files, or by a key that is not asked for
  x UntrustedObjects       Python objects from an archive that was imported without trust
  x InvalidSetting         an unknown setting, or a value it does not take
  x InvalidQuery           an expression to search by cannot be understood
  x InvalidPolicy          rules to keep versions by that cannot be understood, or would keep none
  x IntegrityError         stored bytes are missing or do not match their digest
    · UnsupportedFormat    a pack, manifest or record made by rules this release does not know
  x RemoteError            a remote cannot be reached, refuses, or holds what it should not
    · NoRemote             there is no remote to push to or pull from
    · RemoteNotFound       no remote of casstore stands at that URL
    · RemoteUnsafe         the object store ignores conditions, on which all that is safe rests
    · OutcomeUnknown       an answer was lost, and what became of the request cannot be told
  x StoreError             the store itself cannot be used
    · StoreNotFound        no store stands there, and none was to be made
    · StoreLocked          another process holds a lock for too long
    · StoreTooNew          written by a newer casstore
    · SQLiteTooOld         the SQLite library has a known corruption bug
    · CatalogDamaged       the catalog's file is damaged; an IntegrityError too
    · StoreUnwritable      the store's directory cannot be written to
"""

from __future__ import annotations

from collections.abc import Sequence


class CasstoreError(Exception):
    """The root of all casstore errors; its text says what to do next.

    Attributes
    ----------
    draft_path
        Where the files are kept of a draft that could not be saved; None where none are. Errors that are not casstore's
        get this attribute too, when a draft is kept because of them.
    """

    draft_path: str | None = None


class InvalidTag(CasstoreError, ValueError):
    """A name or version does not follow the rules of tags, or is reserved.

    Attributes
    ----------
    suggestion
        The nearest tag that does, or None.
    """

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


class TagNotFound(CasstoreError, LookupError):
    """No version has this tag.

    Attributes
    ----------
    suggestion
        The nearest tag or name that exists, or None.
    """

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


class AmbiguousTag(CasstoreError, LookupError):
    """A prefix fits several versions.

    Attributes
    ----------
    candidates
        The tags of these versions.
    """

    def __init__(self, message: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class TagExists(CasstoreError, FileExistsError):
    """The tag is already saved, or a directory that is not casstore's stands where it would go."""


class AliasMoved(CasstoreError):
    """An alias does not stand where it was expected, so it was left there.

    Attributes
    ----------
    alias
        The alias, as `name@alias`.
    current
        The tag of the version that it stands at, or None where there is no such alias.
    """

    def __init__(self, message: str, alias: str = "", current: str | None = None) -> None:
        super().__init__(message)
        self.alias = alias
        self.current = current


class AliasProtected(CasstoreError):
    """An alias is protected, and was to be moved or deleted without saying so."""


class VersionAliased(CasstoreError):
    """A version was to be deleted that an alias names.

    Attributes
    ----------
    aliases
        The aliases, as `name@alias`.
    """

    def __init__(self, message: str, aliases: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.aliases = tuple(aliases)


class InvalidMetadata(CasstoreError, ValueError):
    """Labels, metadata or another description that cannot be recorded; the message names the field."""


class ReadOnly(CasstoreError, TypeError):
    """Labels, metadata or what else is recorded with a version were to be changed; a saved version never changes."""


class InvalidSource(CasstoreError, ValueError):
    """The files to be saved cannot be: unreadable, not regular, looping, colliding or badly named."""


class FileChanged(InvalidSource):
    """A file was written to, or another was put in its place, while it was being saved."""


class UnsafeArchive(InvalidSource):
    """An archive that would write outside its place, expands too much, or contradicts itself."""


class InvalidSignature(CasstoreError, ValueError):
    """A version is not signed as is asked for: the signature is missing, was changed, is of other files, or by another
    key or algorithm."""


class UntrustedObjects(CasstoreError):
    """Python objects came in an archive. Unpickling runs what its author wrote, so the caller must say `trust=True`."""


class InvalidSetting(CasstoreError, ValueError):
    """An unknown setting, or a value that the setting does not take."""


class InvalidPolicy(CasstoreError, ValueError):
    """Rules to keep versions by that cannot be understood, are none, or would keep no version of a name."""


class InvalidQuery(CasstoreError, ValueError):
    """An expression, or a key to sort by, that cannot be understood; the message shows the place in it.

    Attributes
    ----------
    reason
        What is wrong, on one line.
    excerpt
        The expression around that place, and a caret below it, on two lines; empty where it is no one place.
    suggestion
        The nearest field, or None.
    unknown
        What stands there and is no field, or None.
    """

    def __init__(
        self, reason: str, excerpt: str = "", suggestion: str | None = None, unknown: str | None = None
    ) -> None:
        super().__init__(f"{reason}\n{excerpt}" if excerpt else reason)
        self.reason, self.excerpt, self.suggestion, self.unknown = reason, excerpt, suggestion, unknown


class IntegrityError(CasstoreError):
    """Stored bytes are missing or differ from their digest. Nothing is changed by finding this."""


class UnsupportedFormat(IntegrityError):
    """A file in the store requires a feature that this release does not know."""


class RemoteError(CasstoreError, OSError):
    """A remote cannot be reached, refuses, or was asked for what it cannot do. Nothing is lost by this."""

    is_refusal = False
    """Whether the remote has said no, as for want of rights: then nothing was done, and to ask again is of no use."""


class NoRemote(RemoteError):
    """No remote is set up to push versions to, or to pull them from."""


class RemoteNotFound(RemoteError, FileNotFoundError):
    """No remote of casstore stands at that URL."""


class RemoteUnsafe(RemoteError):
    """The object store ignores conditional creates, so that two writers could both win one tag."""


class OutcomeUnknown(RemoteError):
    """An answer was lost, and whether the object was written cannot be told. Run the same again: it goes on."""


class StoreError(CasstoreError):
    """The store as a whole cannot be used."""


class StoreNotFound(StoreError, FileNotFoundError):
    """No store stands at this place, and none was to be made."""


class StoreLocked(StoreError):
    """Another process has held a lock of the store for longer than the timeout."""


class StoreTooNew(StoreError):
    """The store was written by a newer casstore; upgrade this one."""


class SQLiteTooOld(StoreError):
    """The SQLite library in use can corrupt a store that several connections write to."""


class CatalogDamaged(StoreError, IntegrityError):
    """The catalog's file is damaged, missing or not a catalog; it can be rebuilt from the files beside it."""


class StoreUnwritable(StoreError, PermissionError):
    """The store's directory cannot be created or written to."""
