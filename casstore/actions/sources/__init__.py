"""What a save is given: files of the caller, before anything of the store is touched."""
