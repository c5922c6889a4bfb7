"""What `torch.distributed.checkpoint` says of its files in `.metadata`: the name of each tensor, and where it stands.

That file is a pickle of `Metadata` (torch/distributed/checkpoint/metadata.py), whose `storage_data` leads from the name
of a tensor, and where a part of it begins, to the `torch.save` archive of it in a `.distcp` file. Nothing is unpickled.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from casstore.storage.tensors.parameters import MAX_NAME_CHARACTERS, Machine, Made, Map, Strided
from casstore.storage.tensors.segments import MAX_NAME_BYTES, HeaderError, ReadAt
from casstore.storage.tensors.zip_rows import MAX_ARCHIVES, Archive, start_of
from casstore.storage.tensors.zips import read_torch_pickle

# A tensor takes some 600 bytes.
MAX_METADATA_BYTES = 32 << 20
# Of the archives of a file, of each its directory and its pickle: a kilobyte. Each byte takes up to a microsecond.
MAX_READ_BYTES = 32 << 20


class Place(NamedTuple):
    """The archive of a tensor in a file. `part`: where it begins in the tensor, if this is a part of it."""

    name: str
    part: tuple[int, ...] | None
    offset: int
    length: int

    def named(self, shape: tuple[int, ...]) -> str:
        """The name of the tensor, and which part of it this is: "layer.weight[512:1024, 0:256]"."""
        if self.part is None or len(self.part) != len(shape):
            return self.name
        parts = (f"{begin}:{begin + size}" for begin, size in zip(self.part, shape, strict=True))
        return f"{self.name}[{', '.join(parts)}]"


def find_places(metadata: bytes) -> dict[str, list[Place]]:
    """What is in each file, by its path beside `.metadata`; nothing for a pickle that breaks any rule."""
    try:
        top = Machine(metadata).run()
        found = list(_places(top))
        in_parts = _in_parts(top)
    except (ValueError, TypeError, LookupError, struct.error, RecursionError):
        return {}
    lengths = (len(place.named(place.part or ())) for _, place in found)
    if any(characters > MAX_NAME_CHARACTERS for characters in accumulate(lengths)):
        return {}
    counts = Counter(place.name for _, place in found)
    places: dict[str, list[Place]] = {}
    for path, place in found:
        is_part = counts[place.name] > 1 or any(place.part or ()) or place.name in in_parts
        places.setdefault(path, []).append(place if is_part else place._replace(part=None))
    return places


def _places(top: Any) -> Iterator[tuple[str, Place]]:
    storage = _said(top).get("storage_data")
    if not isinstance(storage, Map) or len(storage.pairs) > MAX_ARCHIVES:
        raise HeaderError("there is no list of what is stored, or it is too long")
    for key, value in storage.pairs:
        index, info = _said(key), _said(value)
        name, part, path = index.get("fqn"), index.get("offset"), info.get("relative_path")
        offset, length = info.get("offset"), info.get("length")
        is_part = part is None or (type(part) is tuple and all(type(each) is int and each >= 0 for each in part))
        if type(name) is not str or not is_part or type(path) is not str or type(offset) is not int:
            raise HeaderError("it does not say what is stored, or where")
        # What has been transformed, as by compression, is not an archive.
        if type(length) is int and info.get("transform_descriptors") is None and len(name.encode()) < MAX_NAME_BYTES:
            yield path, Place(name, part, offset, length)


def _in_parts(top: Any) -> set[str]:
    """The names of tensors that are written in parts, also where but one of these is stored."""
    tensors = _said(top).get("state_dict_metadata")
    if not isinstance(tensors, Map):
        return set()
    names = set()
    for name, each in tensors.pairs:
        if type(name) is str and isinstance(each, Made) and isinstance(each.state, Map):
            parts = _said(each).get("chunks")
            if isinstance(parts, list) and len(parts) > 1:
                names.add(name)
    return names


def _said(record: Any) -> dict[Any, Any]:
    """The attributes of an object."""
    if not isinstance(record, Made) or not isinstance(record.state, Map):
        raise HeaderError("it is not what PyTorch writes")
    return {key: value for key, value in record.state.pairs if type(key) is str}


def find_distributed(read: ReadAt, size: int, places: Iterable[Place]) -> dict[str, tuple[Place, Strided]]:
    """The tensors of a file of archives: by name, where the archive is, and what its pickle says of the tensor.

    What is no tensor is left out, and so is what stands beyond the bound of bytes that are read. Raises what `read`
    raises.
    """
    found: dict[str, tuple[Place, Strided]] = {}
    left = MAX_READ_BYTES
    for place in sorted(places, key=lambda place: place.offset):
        if place.offset < 0 or place.length <= 0 or place.offset + place.length > size or left < 0:
            continue
        archive = Archive(read, place.offset, left)
        tensor = _tensor(archive, place.length)
        left = archive.left
        if tensor is not None:
            found.setdefault(place.named(tensor.shape), (place, tensor))
    return found


def _tensor(archive: Archive, length: int) -> Strided | None:
    """The tensor of which an archive is; None where it is of anything else, or there is not one archive and no more."""
    try:
        if start_of(archive.read, length):
            return None
        top = Machine(read_torch_pickle(archive.read, length)).run()
    except (ValueError, TypeError, LookupError, struct.error, RecursionError):
        return None
    return top if isinstance(top, Strided) else None
