"""New locations for chunks: for damaged ones from whatever has their bytes, and for the sound ones that are beside
them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from casstore.actions.health.donors import Donors
from casstore.actions.packs.bases import encode_chunk
from casstore.actions.packs.builder import PackBuilder
from casstore.actions.packs.repack import Moved, Mover
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import NewContainer
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.progress import Progress
from casstore.storage import files
from casstore.storage.container import Container
from casstore.storage.recipe import Recipe
from casstore.storage.tensors.elements import BYTES, Element, element_of


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of damaged chunks. `chunks`: stored again. `lost`: no donor has them. `unread`: one line for each
    thing that could not be searched."""

    chunks: frozenset[Digest] = frozenset()
    lost: frozenset[Digest] = frozenset()
    unread: Sequence[str] = ()


def heal(workspace: Workspace, wanted: set[Digest], sources: Sequence[Path], progress: Progress) -> Healed:
    """Store what donors have of these chunks in new packs, which become their containers. Raises OSError.

    What one search finds may be what deltas in a donor need, so donors are searched until a search changes nothing.
    """
    if not wanted:
        return Healed()

    def repoint(new: NewContainer) -> None:
        workspace.catalog.repacking.repoint(new)
        workspace.objects.close()

    with workspace.session() as session, PackBuilder(workspace, session, repoint, durable=True) as packs:
        healing = _Healing.of(workspace, packs, wanted)
        while healing.lost:
            has_changed = healing.search(sources, progress)
            if not has_changed:
                break
    return Healed(frozenset(healing.healed), frozenset(healing.lost), tuple(healing.unread))


@dataclass(slots=True)
class _Healing:
    """The search for `lost` chunks. `needed`: chunks that deltas in donors stand on, and that nobody has had so far."""

    workspace: Workspace
    packs: PackBuilder
    lost: set[Digest]
    recipes: Sequence[Recipe]
    elements: dict[Digest, Element]
    needed: set[Digest] = field(default_factory=set)
    healed: set[Digest] = field(default_factory=set)
    unread: dict[str, None] = field(default_factory=dict)  # each once, in the order they were met

    @classmethod
    def of(cls, workspace: Workspace, packs: PackBuilder, wanted: set[Digest]) -> _Healing:
        references = workspace.catalog.references
        recipes = references.recipes_with(wanted)
        single = [Recipe.of_one_chunk(file.digest, file.size) for _, file in references.files_of(wanted)]
        return cls(workspace, packs, set(wanted), [*recipes, *single], _elements(recipes))

    def search(self, sources: Sequence[Path], progress: Progress) -> bool:
        """Search every donor once, and store what it has; returns whether that changed what there is to look for."""
        lost, needed = self.lost, self.needed
        donors = Donors(self.workspace, lost | needed, self.recipes, self._store)
        donors.search(sources, progress)
        self.unread |= dict.fromkeys(donors.unread)
        self.packs.finish()  # what has been found can be read from now on
        self.needed = (needed | donors.needed) - self.healed
        # Deltas whose bases were damaged are readable again.
        self.lost = {digest for digest in lost - self.healed if not self._is_readable(digest)}
        return (self.lost, self.needed) != (lost, needed)

    def _store(self, digest: Digest, raw: bytes) -> None:
        self.healed.add(digest)
        self.packs.add(encode_chunk(self.workspace, digest, raw, self.elements.get(digest, BYTES), None))

    def _is_readable(self, digest: Digest) -> bool:
        try:
            self.workspace.objects.read_chunk(digest)
        except (IntegrityError, OSError) as error:
            files.raise_unless_damage(error)
            return False
        return True


def move_sound(workspace: Workspace, container: Container, lost: set[Digest]) -> None:
    """Copy what a damaged container holds beside the damage into a new pack, which becomes its container."""
    digests = [digest for digest, _ in workspace.catalog.references.chunks_of(container) if digest not in lost]
    locations = workspace.catalog.index.locate(digests)
    blobs = [] if container.is_pack else [container.blob]
    elements = _elements(workspace.catalog.index.recipes(blobs).values())
    with (
        workspace.session() as session,
        Mover(workspace, session, lambda _: None, Moved(), verbatim=container.is_pack) as mover,
    ):
        for digest, future in workspace.objects.read_ahead(digests):
            raw = future.result()
            if container.is_pack:
                mover.copy(digest, workspace.objects.copy_record(digest, locations[digest]), container.id)
            else:
                encoded = encode_chunk(workspace, digest, raw, elements.get(digest, BYTES), None)
                mover.add(encoded, 0, container.id)


def _elements(recipes: Iterable[Recipe]) -> dict[Digest, Element]:
    """What the chunks of these recipes are made of."""
    return {
        digest: element_of(segment.dtype)
        for recipe in recipes
        for segment in recipe.segments
        for digest, _ in segment.chunks
    }
