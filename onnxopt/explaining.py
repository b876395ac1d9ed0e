"""`explain`: which rewrites a model gets, which it just misses, and why."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.core.report import PassRecord, Report
from onnxopt.core.walking import all_graphs
from onnxopt.expected_fusions import NearMiss, near_misses
from onnxopt.missed_attention import missed_attention
from onnxopt.optimizing import Result, optimize
from onnxopt.requirements import counts, parse_requirements, unmet
from onnxopt.targets import Target

_SHOWN = 3
_ATTENTION = "fuse-attention"


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the passes make of a model.

    Attributes:
        report: What each pass did and refused.
        misses: Fusions that almost happened.
        operators: Nodes of the result by operator.
        unmet: Requirements that are not met, one line each.
    """

    report: Report
    misses: tuple[NearMiss, ...]
    operators: Counter[str]
    unmet: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """3 if a requirement is not met."""
        return 3 if self.unmet else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        report = self.report.to_dict()
        return {
            "target": report.get("target", ""),
            "nodes": report["nodes"],
            "passes": report["passes"],
            "refusals": report["refusals"],
            "near_misses": [dataclasses.asdict(miss) for miss in self.misses],
            "operators": dict(self.operators.most_common()),
            "unmet": list(self.unmet),
            "exit_code": self.exit_code,
        }

    def to_text(self, *, verbose: bool = False) -> str:
        """What happened and what did not, pass by pass.

        Args:
            verbose: Also the passes that had nothing to do, and all nodes.
        """
        refusals: dict[str, list[str]] = {}
        for (name, rule, reason), nodes in self.report.refusals().items():
            label = f"{rule}: " if rule and rule != name else ""
            line = f"refused {len(nodes)} x {label}{reason}{_names(nodes, verbose)}"
            refusals.setdefault(name, []).append(line)
        misses = self._miss_lines(verbose)
        lines = []
        for record in self.report.merged():
            told = refusals.get(record.name, []) + misses.pop(record.name.partition("{")[0], [])
            if verbose or record.modified or told:
                lines.append(_headline(record))
                lines += [f"    {line}" for line in told]
        return "\n".join([*lines, *(f"not met: {line}" for line in self.unmet)])

    def _miss_lines(self, verbose: bool) -> dict[str, list[str]]:
        grouped: dict[tuple[str, int, int, str], list[NearMiss]] = {}
        for miss in self.misses:
            key = (miss.pass_name, miss.matched, miss.size, "" if verbose else _kind(miss.reason))
            grouped.setdefault(key, []).append(miss)
        lines: dict[str, list[str]] = {}
        for (name, matched, size, _), misses in grouped.items():
            first = misses[0]
            lines.setdefault(name, []).append(
                f"nearest miss {len(misses)} x: {matched} of {size} nodes fit, then at "
                f"{first.place!r}: {first.reason}{_names([m.node for m in misses], verbose)}"
            )
        return lines


def explain(
    model: str | os.PathLike[str] | ir.Model,
    *,
    target: Target | str | None = None,
    opset: int | None = None,
    require: Sequence[str] = (),
) -> Explanation:
    """Runs the passes on a copy and says what they did and what they did not.

    Args:
        model: A path, or a model in memory, which is left as it is.
        target: Where the result would run.
        opset: Raise the opset to this version first.
        require: `NAME=COUNT`: at least so many rewrites of a pass or rule, or so many nodes of an
            operator in the result.

    Raises:
        OnnxOptError: The model cannot be read, or a requirement names nothing that exists.
    """
    requirements = parse_requirements(require)
    result = optimize(model, target=target, opset=opset, guard="off")
    operators = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for graph in all_graphs(result.model)
        for node in graph
    )
    found = counts(result.report.merged(), operators)
    misses = [*near_misses(result.model), *_missed_attention(result)]
    return Explanation(
        result.report,
        tuple(misses),
        operators,
        tuple(unmet(requirements, found)),
    )


def _missed_attention(result: Result) -> Iterator[NearMiss]:
    """Where the target has fused attention: what its pass passed over in silence."""
    records = [record for record in result.report.merged() if record.name.startswith(_ATTENTION)]
    told = {refusal.node for record in records for refusal in record.refusals}
    if records:
        yield from (miss for miss in missed_attention(result.model) if miss.node not in told)


def _headline(record: PassRecord) -> str:
    count = sum(record.rewrites.values())
    rules = ", ".join(f"{rule} {number}" for rule, number in record.rewrites.most_common())
    return f"{record.name}: {count} rewrites" + (f" ({rules})" if len(record.rewrites) > 1 else "")


def _names(nodes: Sequence[str], verbose: bool) -> str:
    named = [repr(name) for name in nodes if name]
    shown = named if verbose else named[:_SHOWN]
    more = f" and {len(named) - len(shown)} more" if len(named) > len(shown) else ""
    return f" ({', '.join(shown)}{more})" if shown else ""


def _kind(reason: str) -> str:
    """The reason without the names in it."""
    return " ".join(word for word in reason.split() if "'" not in word)
