"""Chunks into packs, whoever brings them: what they are stored against, the writing of packs, and their fsyncs."""
