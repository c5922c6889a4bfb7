"""From files to a committed version, and back: staging, packing, the one transaction, and deletion. Drafts that could
not be saved are kept.
"""
