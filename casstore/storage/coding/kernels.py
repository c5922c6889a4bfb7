"""Chooses the kernels: compiled where a compiler was found when casstore was installed, else those in numpy."""

from __future__ import annotations

import functools
import os

from casstore.late import LateModule
from casstore.storage.coding import compiled
from casstore.storage.coding.arithmetic import Kernels

# numpy takes longer to import than all else that reading a version needs.
plain = LateModule("casstore.storage.coding.plain")

VARIABLE = "CASSTORE_KERNELS"


@functools.cache
def kernels() -> Kernels:
    """The kernels that this process uses. `CASSTORE_KERNELS=numpy` in the environment chooses those in numpy."""
    found: Kernels = _compiled() or plain.Plain()
    return found


def _compiled() -> compiled.Compiled | None:
    return None if os.environ.get(VARIABLE) == "numpy" else compiled.load()


def kernels_in_use() -> str:
    """Return which arithmetic this process packs and reads packed versions with: it makes no difference but in time.

    Returns
    -------
    str
        `"compiled"`, or `"numpy"` where casstore was installed without a compiler, or where `CASSTORE_KERNELS` in the
        environment is `numpy`.

    Examples
    --------
    >>> casstore.kernels_in_use()
    'compiled'
    """
    return "numpy" if _compiled() is None else "compiled"
