"""What a store does. Verbs over the files of `storage` and the rows of `catalog`, each safe to be killed anywhere.

The modules that stand here are the open store and its parts (`workspace`), and how it is found and opened (`home`). A
folder knows those before it in the order that tests/test_layers.py holds: describing, sources, packs, consistency,
directories, saving, gc, health, exchange.
"""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "checksums", "configure", "elsewhere_file", "reserved", "resolve", "sharing", "single_files", "keeping",
    "signatures",
)  # fmt: skip
