"""Archive formats: reading them safely from a stream into a directory, and writing them. Nothing of the store."""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "casmodel", "compression", "copying", "decompression", "endpoint", "formats", "limits", "links", "model_signing",
    "names", "oci", "pathset", "tar", "unpacked_tree", "unpacking", "writing", "zips",
)  # fmt: skip
