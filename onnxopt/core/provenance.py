"""Where the nodes of a rewritten model come from: metadata that survives saving.

A node that a rule made carries two entries in its `metadata_props`:

    onnxopt.rule   the rules that led to it, oldest first: `fuse-conv-batch-norm`
    onnxopt.from   the names of the original nodes that it replaces: `conv1, bn1`

Both are merged through later rewrites and cut at a length. Which original value an output stands
for needs no entry: the driver lets it take over that value's name. ONNX Runtime reads node metadata
at every IR version, although the format only has it since version 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

RULE_KEY = "onnxopt.rule"
FROM_KEY = "onnxopt.from"

_SEPARATOR = ", "
_CUT = "..."
_MOST_RULES = 6
_MOST_NODES = 12
# Exporters write whole module paths into names; of these the end tells more than the beginning.
_LONGEST_NAME = 96


def record_rewrite(new: Iterable[ir.Node], rule: str, removed: Sequence[ir.Node]) -> None:
    """Notes on new nodes which rule made them and which nodes they replace.

    Args:
        new: The nodes that the rule made.
        rule: Its name.
        removed: The nodes that are gone because of it, in any order.
    """
    rules, sources = _merged(removed)
    rules_text = _joined([*(one for one in rules if one != rule), rule], _MOST_RULES)
    sources_text = _joined(sources, _MOST_NODES)
    for node in new:
        node.metadata_props[RULE_KEY] = rules_text
        if sources_text:
            node.metadata_props[FROM_KEY] = sources_text


def rules_of(node: ir.Node) -> list[str]:
    """The rules that led to a node, oldest first; empty for a node of the original."""
    return _split(node.metadata_props.get(RULE_KEY, ""))


def sources_of(node: ir.Node) -> list[str]:
    """Names of the original nodes that a node stands for; its own name if no rule made it."""
    text = node.metadata_props.get(FROM_KEY, "")
    return _split(text) if text else [node.name or ""]


def _merged(removed: Sequence[ir.Node]) -> tuple[list[str], list[str]]:
    rules: dict[str, None] = {}
    sources: dict[str, None] = {}
    # Removal goes from the root backwards; people read forwards.
    for node in reversed(removed):
        if node.op_type == "Constant" and not node.domain:
            continue
        rules.update(dict.fromkeys(rules_of(node)))
        sources.update(dict.fromkeys(name[-_LONGEST_NAME:] for name in sources_of(node) if name))
    return list(rules), list(sources)


def _joined(names: Sequence[str], most: int) -> str:
    if len(names) > most:
        # The newest rule and the last node say most; the first ones are dropped.
        names = [_CUT, *[name for name in names if name != _CUT][1 - most :]]
    return _SEPARATOR.join(names)


def _split(text: str) -> list[str]:
    return [part for part in text.split(_SEPARATOR) if part]
