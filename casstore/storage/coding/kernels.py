"""Chooses the kernels: compiled where a compiler was found when casstore was installed, else those in numpy."""

from __future__ import annotations

import functools
import os

from casstore.storage.coding import compiled
from casstore.storage.coding.arithmetic import Kernels

VARIABLE = "CASSTORE_KERNELS"


@functools.cache
def kernels() -> Kernels:
    """The kernels that this process uses. `CASSTORE_KERNELS=numpy` in the environment chooses those in numpy."""
    found = None if os.environ.get(VARIABLE) == "numpy" else compiled.load()
    if found is not None:
        return found
    # Here and not above: numpy takes longer to import than all else that reading a version needs.
    from casstore.storage.coding.plain import Plain

    return Plain()
