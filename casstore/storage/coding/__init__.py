"""How the bytes of a chunk are encoded in a pack: compressed, in planes, or as a delta upon another chunk."""
