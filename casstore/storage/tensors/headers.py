"""Whether what is recorded of a file's tensors is what its own header says: records may be a stranger's."""

from __future__ import annotations

from casstore.errors import IntegrityError
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.storage.tensors.elements import ReadAt, Segment, find_segments
from casstore.storage.tensors.zips import find_zip

_KINDS = frozenset(("safetensors", "gguf", "torch", "npz", "zips"))


def tells_tensors(recipe: Recipe) -> bool:
    """Whether a recipe names tensors of a format that is known here, so that it can be compared with the header."""
    return _kind(recipe) in _KINDS and any(segment.name is not None for segment in recipe.segments)


def check_header(recipe: Recipe, read: ReadAt, name: str, advice: str) -> None:
    """Compare each tensor that a recipe names with the header of its file, of which no more is read than that.

    A dtype or a shape that the recipe does not tell is not compared. Raises IntegrityError where they differ, and what
    `read` raises. `name` is what the error calls the file, and `advice` its end.
    """
    if not tells_tensors(recipe):
        return
    told = {segment.offset: segment for segment in _found(recipe, read)}
    offset = 0
    for segment in recipe.segments:
        length = segment.length
        if segment.name is not None and not _fits(segment, length, told.get(offset)):
            raise IntegrityError(
                f"the record of {name} does not fit its header: there is no such tensor as "
                f"{segment.name[:100]!r} at byte {offset:,}; {advice}"
            )
        offset += length


def _kind(recipe: Recipe) -> str:
    return recipe.plan.partition("/")[0]


def _found(recipe: Recipe, read: ReadAt) -> list[Segment]:
    """The segments of the file, if it is of the kind that the recipe says. Raises what `read` does."""
    kind, found = find_segments(read, recipe.size) or ("", [])
    if kind == "zips" and _kind(recipe) != kind:
        # Of several archives behind one another, older releases knew the last, by its own names.
        try:
            kind, found = find_zip(read, recipe.size)
        except ValueError:
            return []
    return found if kind == _kind(recipe) else []


def _fits(segment: RecipeSegment, length: int, told: Segment | None) -> bool:
    if told is None or (segment.name, length) != (told.name, told.length):
        return False
    return segment.dtype in (None, told.dtype) and segment.shape in (None, told.shape)
