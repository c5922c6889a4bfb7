"""From files to a committed version: staging, packing and the one transaction; deletion; and keeping drafts that could
not be saved.
"""
