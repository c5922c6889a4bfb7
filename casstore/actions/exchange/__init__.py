"""Versions from elsewhere and to elsewhere: archives, directories of other tools, backups, copies for the caller."""
