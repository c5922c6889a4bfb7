"""Bytes and places, no names: files, locks, sessions, containers, manifests, and the codes that they are in.

Nothing here knows the catalog, or what a version is for. `files` and `locks` are the only modules that sync, rename,
link, lock and change modes; `layout` is the only one that knows the paths of a store.
"""

from casstore.late import late_modules

__getattr__ = late_modules(__name__, "bounded_yaml", "chunking", "objects", "pack")
