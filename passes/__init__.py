"""Every rewrite that onnxopt knows, one idea a file.

`PASSES` lists them explicitly; importing this package registers nothing and has no side effects.
`parse_passes("fold-constants{max-growth=0},remove-unused")` builds passes from text.
"""

from __future__ import annotations

from onnxopt.core.passes import Pass
from onnxopt.passes.parsing import find_pass, parse_passes

PASSES: tuple[type[Pass], ...] = ()

__all__ = ["PASSES", "find_pass", "parse_passes"]
