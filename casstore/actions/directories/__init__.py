"""What stands under `models/`: making a version's directory, whose a directory is, what is wrong in it, and taking it
away. What somebody else has put there is kept, never overwritten.
"""
