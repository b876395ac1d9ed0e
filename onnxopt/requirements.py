"""`NAME=COUNT`: what a model must have or get, as a check."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Sequence

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import RewritePass
from onnxopt.core.report import PassRecord


@dataclasses.dataclass(frozen=True)
class Requirement:
    """At least so many of something.

    Attributes:
        name: A pass, a rule or an operator.
        count: The least number.
    """

    name: str
    count: int


def parse_requirements(texts: Iterable[str]) -> list[Requirement]:
    """Reads `fuse-layer-norm=12` and `LayerNormalization=13`.

    Raises:
        InvalidInputError: A text is not of that form, or names nothing that exists.
    """
    found = []
    for text in texts:
        name, separator, count = text.rpartition("=")
        if not separator or not name or not count.strip().isdecimal():
            raise InvalidInputError(
                f"--require {text!r}: write NAME=COUNT, for example LayerNormalization=13"
            )
        found.append(Requirement(_checked(name.strip()), int(count)))
    return found


def counts(records: Sequence[PassRecord], operators: Counter[str]) -> Counter[str]:
    """What requirements are held against: rewrites by pass and by rule, nodes by operator."""
    found = Counter(operators)
    for record in records:
        name = record.name.partition("{")[0]
        found[name] += sum(record.rewrites.values())
        for rule, count in record.rewrites.items():
            if rule != name:
                found[rule] += count
    return found


def unmet(requirements: Iterable[Requirement], found: Counter[str]) -> list[str]:
    """One line for each requirement that is not met."""
    return [
        f"{requirement.name}: {found[requirement.name]}, required {requirement.count}"
        for requirement in requirements
        if found[requirement.name] < requirement.count
    ]


def _checked(name: str) -> str:
    import onnx

    from onnxopt.passes import PASSES

    if "::" in name:  # an operator of another domain
        return name
    known = {cls.name for cls in PASSES} | {schema.name for schema in onnx.defs.get_all_schemas()}
    if name in known:
        return name
    for cls in PASSES:
        if issubclass(cls, RewritePass):
            known.update(rule.name or "" for rule in cls().rules())
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InvalidInputError(f"--require: no pass, rule or operator is named {name!r}{hint}")
    return name
