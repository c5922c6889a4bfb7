"""Giving space back: what no version needs is condemned in the catalog, and unlinked once that is on disk."""
