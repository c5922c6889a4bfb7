"""Giving space back: what no version needs is condemned in the catalog first, and unlinked when that is on disk."""
