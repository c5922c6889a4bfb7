"""How the bytes of a chunk are encoded in a pack: compressed, in planes, or as a delta upon another chunk."""

from casstore.late import late_modules

__getattr__ = late_modules(__name__, "codec", "delta", "documents", "entropy", "memory")
