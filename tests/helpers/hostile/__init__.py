"""A corpus of hostile and broken models: each a function that writes one into a folder.

`CASES` has them by name. What they have in common is what must be true of them all: whatever is
done with one ends soon, in little memory, with one clear line, and touches nothing else.
"""

from helpers.hostile import attributes, endless, external_data, files, graphs, tensors, wire
from helpers.hostile.corpus import CASES

# Importing a module adds its cases.
__all__ = ["CASES", "attributes", "endless", "external_data", "files", "graphs", "tensors", "wire"]
