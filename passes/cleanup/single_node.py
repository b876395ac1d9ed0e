"""Rules that match one node of a fixed op type and read everything else from the node itself.

Most of cleanup asks questions that pattern variables cannot: an operand that is an attribute or an
input, depending on the opset; any producer out of a family; a shape that is equal to another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter._basics import MatchContext
from onnxscript.rewriter._pattern_ir import GraphPattern
from onnxscript.rewriter.pattern import (
    MatchingTracer,
    MatchResult,
    MatchStatus,
    RewriteRule,
    RewriteRuleClassBase,
)

from onnxopt.graph.values import constant_ints, opset_version

# What a node's first output is equal to; a text is the reason why an expected rewrite is refused
# and None is an ordinary non-match.
Source = Callable[[ir.Node, int], "ir.Value | str | None"]


# Nearly every check ends here, thousands of times a run, so it is made once. Nothing writes to it.
_NO_MATCH = MatchResult().fail("")
# What a check that reads one node sees as the match so far.
_UNBOUND = MatchResult()


def no_match() -> MatchResult:
    """An ordinary non-match: without a reason, so that the report stays free of it."""
    return _NO_MATCH


def refuse(reason: str, node: ir.Node) -> MatchResult:
    """A rewrite that was to be expected here, and why it is not made."""
    return MatchResult().fail(reason, node)


def found(**what: Any) -> MatchResult:
    """A match; `rewrite` gets `what` as keyword arguments, so that no rule has to remember it."""
    match = MatchResult()
    for name, value in what.items():
        match.bind(name, value)
    return match


class NodeRule(RewriteRuleClassBase):
    """Matches every node of one op type; `check` and `rewrite` get its first output as `root`.

    Attributes:
        domain: The domain of the operator.
    """

    domain: ClassVar[str] = ""

    def __init__(self, op_type: str, name: str) -> None:
        super().__init__(name, remove_nodes=False)
        self.op_type = op_type

    @classmethod
    def rule(cls, *args: Any) -> RewriteRule:
        """The rule, made with the arguments of the constructor."""
        rule = cls(*args)
        return _OneNodeRule(
            _one_node(rule.op_type, rule.domain), rule.rewrite, rule.check, name=rule.name,
            remove_nodes=False,
        )  # fmt: skip

    def pattern(self, op: Any) -> Any:
        """One node, whatever its inputs and attributes are."""
        return _one_of(op, self.op_type, self.domain)


@functools.cache
def _one_node(op_type: str, domain: str) -> GraphPattern:
    """The pattern of `NodeRule`, made once for each op type: rules are made for every run."""
    return RewriteRule(lambda op: _one_of(op, op_type, domain), _unused)._target_pattern


def _one_of(op: Any, op_type: str, domain: str) -> Any:
    return getattr(op, op_type)(_domain=domain, _allow_other_inputs=True, _outputs=["root"])


def _unused(op: Any) -> None:
    """Stands where a rule wants its replacement."""


class _OneNodeRule(RewriteRule):
    """A rule whose pattern the driver's index has matched already: only the check is left to run.

    onnxscript's matcher costs four times as much as most checks.
    """

    def match(
        self,
        model: ir.Model,
        graph_or_function: ir.Graph | ir.Function,
        node: ir.Node,
        *,
        verbose: int | None = None,
        check_nodes_are_removable: bool = True,
        tracer: MatchingTracer | None = None,
    ) -> MatchResult | None:
        """Binds the node, and what the check finds."""
        wanted = self._target_pattern.output_node
        if node.op_type != wanted.op_type or not wanted.domain.matches(node.domain):
            return None
        root = node.outputs[0]
        checked = self._condition_function(
            MatchContext(model, graph_or_function, node, _UNBOUND), root=root
        )
        if checked:
            match = MatchResult()
            match.add_node(node)
            match.bind("root", root)
            match.outputs.append(root)
            if isinstance(checked, MatchResult):
                match.bindings.update(checked.bindings)
            return match
        reason = getattr(checked, "reason", "")
        if tracer is not None and reason:
            failed = MatchResult().fail(reason, node)
            tracer.log(self, graph_or_function, node, failed, MatchStatus.CONDITION_FAILED)
        return None


class Bypass(NodeRule):
    """`Op(x, ...) -> x` wherever `source` finds a value that the output always equals."""

    def __init__(self, op_type: str, name: str, source: Source) -> None:
        super().__init__(op_type, name)
        self._source = source

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks for the value; `rewrite` hands it out."""
        node = context.root
        source = self._source(node, opset_version(node, context.model))
        if isinstance(source, str):
            return refuse(source, node)
        return no_match() if source is None else found(source=source)

    def rewrite(self, op: Any, root: ir.Value, source: ir.Value) -> ir.Value:
        """The value found by `check`."""
        return source


def bypass_rules(table: Mapping[str, Source]) -> list[RewriteRule]:
    """One rule for each op type of `table`, named after it."""
    return [Bypass.rule(op_type, op_type.lower(), source) for op_type, source in table.items()]


def has_input(node: ir.Node, index: int) -> bool:
    """True if the optional input is there."""
    return index < len(node.inputs) and node.inputs[index] is not None


def ints_parameter(node: ir.Node, name: str, index: int) -> tuple[int, ...] | None:
    """An integer list that older opsets spell as an attribute and newer ones as an input.

    Returns:
        The integers; empty if there is neither; None if they are computed at run time.
    """
    attribute = node.attributes.get(name)
    if attribute is not None:
        return None if attribute.is_ref() else tuple(attribute.as_ints())
    return constant_ints(node.inputs[index]) if has_input(node, index) else ()


def producer_of(value: ir.Value | None, *op_types: str, domain: str = "") -> ir.Node | None:
    """The node of the domain that makes `value`, if it is one of `op_types`."""
    producer = None if value is None else value.producer()
    if producer is None or producer.domain != domain or producer.op_type not in op_types:
        return None
    return producer


def only_user(value: ir.Value) -> bool:
    """True if the value has exactly one use and is no graph output."""
    return len(value.uses()) == 1 and not value.is_graph_output()
