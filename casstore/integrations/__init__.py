"""casstore inside of other programs."""
