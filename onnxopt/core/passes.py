"""`Pass` and `PassResult`: the contract that every rewrite of a model keeps.

A pass is a frozen, keyword-only dataclass. Its fields are its options and the only schema of them:
`parse_passes` in `onnxopt.passes` reads them from text and `str(pass_)` prints them back.
"""

from __future__ import annotations

import abc
import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriteRule


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A rewrite that matched and was not made.

    Attributes:
        rule: Name of the rule or of the part of a pass that refused.
        node: Name of the node or value concerned; "" where it is the whole graph.
        reason: Why, in a few words that a user understands.
    """

    rule: str
    node: str
    reason: str


class PassResult(ir.passes.PassResult):
    """What a pass did.

    Attributes:
        model: The model, modified in place.
        rewrites: Rule name to the number of times that it was applied.
        refusals: What matched and was left alone, with the reasons.
        modified: True exactly if a rewrite was counted.
    """

    def __init__(
        self,
        model: ir.Model,
        rewrites: Counter[str] | None = None,
        refusals: Iterable[Refusal] = (),
    ) -> None:
        self.rewrites: Counter[str] = +(rewrites or Counter())
        self.refusals: list[Refusal] = list(refusals)
        super().__init__(model, modified=bool(self.rewrites))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass(ir.passes.InPlacePass):
    """One rewrite of a model, in place.

    Subclasses are frozen keyword-only dataclasses that set `name` and implement `call`. They keep
    the model valid, change nothing when run a second time, keep the names, types and symbolic
    dimensions of graph inputs and outputs, and never overwrite an initializer that others share.
    """

    name: ClassVar[str] = ""
    # False: only makes the file or the graph simpler, and is not timed by the guard.
    claims_speed: ClassVar[bool] = True

    @abc.abstractmethod
    def call(self, model: ir.Model) -> PassResult:
        """Rewrites `model` in place and says what was done and what was refused."""

    def __str__(self) -> str:
        """The pass with the options that differ from their defaults, as `--passes` takes it."""
        options = [
            f"{field.name.replace('_', '-')}={_option_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}{{{','.join(options)}}}" if options else self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewritePass(Pass):
    """A pass that is a set of rewrite rules in onnxscript's pattern language.

    Subclasses implement `rules`. Each rule has one output node, by whose (domain, op type) the
    driver indexes it. Subgraphs are rewritten like the main graph; functions are left alone
    (`InlineFunctions` runs first in every preset).
    """

    @abc.abstractmethod
    def rules(self) -> Sequence[RewriteRule]:
        """The rules, in the order in which they are tried on a node."""

    def call(self, model: ir.Model) -> PassResult:
        """Runs the rules over the whole model until none applies."""
        from onnxopt.core.rewriting import run_rules

        (result,) = run_rules(model, [self])
        return result


def _option_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(_option_text(item) for item in value)
    return str(value)
