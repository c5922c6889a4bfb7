"""Where the tensors of a file stand, so that it is cut into chunks at their borders.

A file that cannot be parsed is bytes.
"""
