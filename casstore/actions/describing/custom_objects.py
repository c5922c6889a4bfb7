"""Python objects beside a version's files: the only module that pickles, with a library that takes time to import."""

from __future__ import annotations

from collections.abc import Mapping
from io import BufferedIOBase
from typing import Any

import cloudpickle

from casstore.errors import InvalidMetadata


def pickled(custom_objects: Mapping[str, Any]) -> bytes:
    """Raises InvalidMetadata for what cannot be pickled."""
    try:
        return bytes(cloudpickle.dumps(dict(custom_objects)))
    except Exception as error:  # pickling runs the objects' own code, which may raise anything
        raise InvalidMetadata(f"custom_objects cannot be pickled: {error}") from error


def unpickled(file: BufferedIOBase) -> Any:
    """What was pickled, which runs whatever its author wrote."""
    return cloudpickle.load(file)
