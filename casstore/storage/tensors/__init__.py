"""Where the tensors of a file stand, so that it is cut into chunks at their borders.

A file that cannot be parsed is bytes.
"""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "elements", "gguf", "headers", "numbers", "parameters", "pickled", "safetensors", "segments", "strides", "unread",
    "zip_rows", "zips",
)  # fmt: skip
