"""Which rules are worth trying on a node, decided without running onnxscript's matcher.

A rule is filed under the (domain, op type) of its pattern's output node. Before the matcher runs,
the producers of the node's inputs are compared with the operators that the pattern wants there:
that is what most matches fail at, and comparing costs a fiftieth of a failed match.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir
from onnxscript.rewriter import _pattern_ir as pattern_ir
from onnxscript.rewriter.pattern import RewriteRule

OpKey = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A rule with what the inputs of its root must be made by.

    Attributes:
        owner: Position of the pass that the rule belongs to.
        rule: The rule.
        max_inputs: The most inputs that the pattern allows.
        producers: (input index, operators one of which must produce that input).
    """

    owner: int
    rule: RewriteRule
    max_inputs: int
    producers: tuple[tuple[int, frozenset[OpKey]], ...]

    def may_match(self, node: ir.Node) -> bool:
        inputs = node.inputs
        if len(inputs) > self.max_inputs:
            return False
        for index, wanted in self.producers:
            value = inputs[index] if index < len(inputs) else None
            producer = None if value is None else value.producer()
            if producer is None or (producer.domain, producer.op_type) not in wanted:
                return False
        return True


class RuleIndex:
    """Rules by the operator at their root."""

    def __init__(self) -> None:
        self._entries: dict[OpKey, list[_Entry]] = {}

    def add(self, owner: int, rule: RewriteRule) -> None:
        """Files a rule of the pass at position `owner`."""
        root = _root(rule)
        limit = 1 << 30 if root.allow_other_inputs else len(root.inputs)
        entry = _Entry(owner, rule, limit, tuple(_wanted_producers(root)))
        self._entries.setdefault(root_key(rule), []).append(entry)

    def has_rules_for(self, node: ir.Node) -> bool:
        """True if some rule has the node's operator at its root."""
        return (node.domain, node.op_type) in self._entries

    def candidates(self, node: ir.Node) -> Iterator[tuple[int, RewriteRule]]:
        """(owner, rule) for the rules that may match at the node, in the order they were added."""
        for entry in self._entries.get((node.domain, node.op_type), ()):
            if entry.may_match(node):
                yield entry.owner, entry.rule


def root_key(rule: RewriteRule) -> OpKey:
    """The (domain, op type) of the pattern's single output node.

    Raises:
        TypeError: The pattern has several output nodes, or one without a fixed operator.
    """
    identifier = _root(rule).op_identifier()
    if identifier is None:
        raise TypeError(f"rule {rule.name}: the output node of the pattern needs a fixed op type")
    return identifier[0], identifier[1]


def _root(rule: RewriteRule) -> pattern_ir.NodePattern:
    pattern = rule._target_pattern
    if not pattern.has_single_output_node:
        raise TypeError(f"rule {rule.name}: a pattern must have exactly one output node")
    return pattern.output_node


def _wanted_producers(root: pattern_ir.NodePattern) -> Iterator[tuple[int, frozenset[OpKey]]]:
    for index, value in enumerate(root.inputs):
        operators = _operators(value)
        if operators is not None:
            yield index, operators


def _operators(value: pattern_ir.ValuePattern | None) -> frozenset[OpKey] | None:
    """The operators that may produce a value of the pattern; None if anything may."""
    if isinstance(value, pattern_ir.NodeOutputPattern):
        identifier = value.producer().op_identifier()
        return None if identifier is None else frozenset({identifier[:2]})
    if isinstance(value, pattern_ir.OpIdDispatchOr):
        return frozenset(identifier[:2] for identifier in value._op_to_pattern)
    if isinstance(value, pattern_ir.BacktrackingOr):
        choices = [_operators(choice) for choice in value._values]
        known = [choice for choice in choices if choice is not None]
        return frozenset().union(*known) if len(known) == len(choices) else None
    return None
