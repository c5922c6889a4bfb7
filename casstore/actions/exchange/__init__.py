"""Versions from elsewhere and to elsewhere: archives, directories of other tools, backups, copies for the caller."""

from casstore.late import late_modules

__getattr__ = late_modules(
    __name__,
    "adopt", "arrivals", "arriving_manifests", "backup", "backup_place", "carried", "casmodel_export",
    "casmodel_import",
    "checkout", "elsewhere", "exporting", "importing", "local_chunks", "look_ahead", "modelpack", "oci_export",
    "oci_import", "pack_size", "pruned", "pull", "pull_files", "push", "remote_cache", "remote_versions",
    "remotes_file", "sync_tree",
)  # fmt: skip
