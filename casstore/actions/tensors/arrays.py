"""Memory of NumPy and PyTorch, and tensors laid over it. Each is imported when it is used."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

from casstore.actions.tensors.layouts import Layout

_NUMPY_NAMES = {
    "BOOL": "bool", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8", "C128": "<c16",
}  # fmt: skip
_ML_DTYPES_NAMES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_TORCH_NAMES = _ML_DTYPES_NAMES | {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16", "U32": "uint32",
    "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "C32": "complex32",
    "C64": "complex64", "C128": "complex128",
}  # fmt: skip
# As in NumPy, which does for its own memory what is done here for PyTorch's. With 4 KiB at a time, to read a large
# tensor that need not be decoded takes twice the processor time.
_HUGE_FROM_BYTES = 4 << 20
_MADV_HUGEPAGE = 14


class Memory(NamedTuple):
    """Bytes of a framework's, as it has them and as they are filled."""

    held: Any
    view: memoryview


class Framework(Protocol):
    """What makes tensors of memory."""

    has_memory: bool
    """Whether what it makes has memory to be filled."""

    def check(self, dtypes: Collection[str]) -> None:
        """Raises TypeError, or ModuleNotFoundError, for a dtype that it does not have."""

    def memory(self, size: int) -> Memory:
        """So many bytes, not yet filled."""

    def moved(self, held: Any) -> Any:
        """The memory, once it is filled, where the tensors are to be."""

    def tensor(self, held: Any, layout: Layout) -> Any:
        """A tensor over memory, in which its first element stands at the byte `layout.start`."""

    def part(self, tensor: Any, wanted: tuple[Any, ...]) -> Any:
        """What an index takes of a tensor, in memory of no more than that."""


def framework(name: str, device: Any = None) -> Framework:
    """NumPy or PyTorch. Raises ValueError for what is neither, and for a device of NumPy's, ModuleNotFoundError."""
    if name in ("numpy", "np"):
        if device is not None and str(device) != "cpu":
            raise ValueError(f'NumPy has no device {str(device)!r}; framework="torch" has')
        return _NumPy()
    if name in ("torch", "pt"):
        return _Torch(device)
    raise ValueError(f'framework is "numpy" or "torch", not {name!r}')


class _NumPy:
    has_memory = True

    def __init__(self) -> None:
        import numpy as np

        self._np = np
        self._known: dict[str, Any] = {}

    def check(self, dtypes: Collection[str]) -> None:
        for dtype in dtypes:
            self._dtype(dtype)

    def _dtype(self, dtype: str) -> Any:
        if dtype not in self._known:
            self._known[dtype] = self._np.dtype(self._found(dtype))
        return self._known[dtype]

    def _found(self, dtype: str) -> Any:
        if dtype in _NUMPY_NAMES:
            return _NUMPY_NAMES[dtype]
        if dtype not in _ML_DTYPES_NAMES:
            raise TypeError(f'NumPy has no dtype for {dtype}; framework="torch" may have one')
        try:
            import ml_dtypes
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'NumPy has no {dtype} of its own: pip install ml_dtypes, or use framework="torch"', name="ml_dtypes"
            ) from error
        found = getattr(ml_dtypes, _ML_DTYPES_NAMES[dtype], None)
        if found is None:
            raise TypeError(f"the ml_dtypes that is installed has no {dtype}: pip install --upgrade ml_dtypes")
        return found

    def memory(self, size: int) -> Memory:
        held = self._np.empty(size, self._np.uint8)
        return Memory(held, held.data)

    def moved(self, held: Any) -> Any:
        return held

    def tensor(self, held: Any, layout: Layout) -> Any:
        dtype = self._dtype(layout.dtype)
        if 0 in layout.shape:
            return self._np.empty(layout.shape, dtype)
        strides = [stride * layout.width for stride in layout.strides]
        return self._np.ndarray(layout.shape, dtype, held, layout.start, strides)

    def part(self, tensor: Any, wanted: tuple[Any, ...]) -> Any:
        found = self._np.asarray(tensor[wanted])
        return found.copy() if found.size < tensor.size else found


class _Torch:
    def __init__(self, device: Any) -> None:
        try:
            import torch
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ModuleNotFoundError(
                'PyTorch is not installed: pip install torch, or use framework="numpy"', name="torch"
            ) from error
        self._torch = torch
        self._device = torch.device("cpu" if device is None else device)
        self.has_memory = self._device.type != "meta"

    def check(self, dtypes: Collection[str]) -> None:
        for dtype in dtypes:
            self._dtype(dtype)

    def _dtype(self, dtype: str) -> Any:
        found = getattr(self._torch, _TORCH_NAMES[dtype], None)
        if found is None:
            raise TypeError(f"PyTorch {self._torch.__version__} has no dtype for {dtype}; a newer one may")
        return found

    def memory(self, size: int) -> Memory:
        # By name: `with torch.device("meta")`, as around the making of a model, is about other tensors.
        device = "cpu" if self.has_memory else "meta"
        held = self._torch.empty(size, dtype=self._torch.uint8, device=device)
        if not self.has_memory:
            return Memory(held, memoryview(b""))
        if size >= _HUGE_FROM_BYTES:
            _wish_for_huge_pages(held.data_ptr(), size)
        return Memory(held, memoryview(held.numpy()))

    def moved(self, held: Any) -> Any:
        return held.to(self._device)

    def tensor(self, held: Any, layout: Layout) -> Any:
        dtype = self._dtype(layout.dtype)
        if 0 in layout.shape:
            return self._torch.empty(layout.shape, dtype=dtype, device=self._device)
        # As torch.load does: tensors of one storage, and none of them a view of another.
        empty = self._torch.empty(0, dtype=dtype, device=held.device)
        return empty.set_(held.untyped_storage(), layout.start // layout.width, layout.shape, layout.strides)

    def part(self, tensor: Any, wanted: tuple[Any, ...]) -> Any:
        found = tensor[wanted]
        return found.clone() if found.numel() < tensor.numel() else found


def _wish_for_huge_pages(address: int, size: int) -> None:
    """Tell Linux that large pages are welcome there: madvise(2). It need not heed that."""
    if sys.platform != "linux":
        return
    import ctypes
    import mmap

    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
