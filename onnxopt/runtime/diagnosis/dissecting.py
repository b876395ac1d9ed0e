"""Takes two models apart: compares paired values, replays parts, names those with an own error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.provenance import rules_of
from onnxopt.core.walking import subgraphs_of
from onnxopt.runtime.diagnosis.causes import graph_causes
from onnxopt.runtime.diagnosis.finding import Diagnosis, Finding, Point
from onnxopt.runtime.diagnosis.narrowing import narrow
from onnxopt.runtime.diagnosis.opening import bodies_in
from onnxopt.runtime.diagnosis.paired_values import PairedValues
from onnxopt.runtime.diagnosis.plain_runs import verdict_notes
from onnxopt.runtime.diagnosis.probing import chunks
from onnxopt.runtime.diagnosis.regions import Region, described, find_region
from onnxopt.runtime.diagnosis.relations import ROUNDED, broken, relation
from onnxopt.runtime.diagnosis.replay import Own, excess, replay
from onnxopt.runtime.diagnosis.rounding_causes import CLIPS, rounding_causes
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.conversion import CONVERSIONS, Conversion
from onnxopt.runtime.session import Feeds

# Arrays that are alive at a time for each value of a chunk: the original's, the other's or the
# replayed ones, and what comparing takes.
_COPIES = 4
_MOST_ROUNDS = 40
# Downstream of a value with an error, so little of it is nothing: the value was no pair.
_VANISHED = 0.01
# Control flow is looked into at so many places, and so many large errors are told of.
_MOST_OPENED = 5
_MOST_LARGEST = 5


class Dissection:
    """One search.

    Args:
        original: The reference.
        rewritten: What became of it.
        feeds: Inputs on which their outputs differ.
        memory: Bytes for values at a time.
        everything: Look at all values.
        conversion: What the original was converted to, if it was.
    """

    def __init__(
        self,
        original: ir.Model,
        rewritten: ir.Model,
        feeds: Feeds,
        memory: int,
        everything: bool,
        conversion: Conversion | None = None,
    ) -> None:
        self._memory = memory
        self._conversion = conversion
        self._pairs = PairedValues(original, rewritten, feeds)
        self._budget = memory // _COPIES
        self._everything = everything
        self._places = {node: place for place, node in enumerate(self._pairs.other.model.graph)}
        self._own: dict[str, Point] = {}
        # What is sure to be a cause, and what may only follow from one.
        self._causes: dict[str, tuple[list[str], list[str]]] = {}
        self._notes: list[str] = []

    def run(self, found: Diagnosis) -> Diagnosis:
        """The diagnosis with the parts at fault; with the largest errors if no part is."""
        findings = self.faults()
        if not findings and found.status != "same":
            findings = self._largest()
        if found.status == "different":
            self._notes += verdict_notes(found, findings, self._pairs.totals, self._conversion)
        pairs = self._pairs
        points = [
            self._own.get(name) or self._point(name, None)
            for name in pairs.likes
            if name in pairs.totals
        ]
        return dataclasses.replace(
            found,
            findings=tuple(findings),
            points=tuple(points),
            values=len(pairs.likes),
            notes=(*found.notes, *self._notes),
        )

    def faults(self) -> list[Finding]:
        """The parts with an error of their own beyond what is usual, worst first."""
        pairs = self._pairs
        try:
            names = everything = list(pairs.likes)
            if not self._everything:
                names = narrow(pairs, names, self._budget)
            self._settle(names)
            if len(names) < len(everything) and not self._faulty():
                self._settle(everything)
        except CannotRunError as error:
            self._notes.append(f"the search stopped: {error.reason}")
        findings: list[Finding] = []
        opened: dict[tuple[ir.Node, ...], list[Finding]] = {}
        for point in self._faulty():
            nodes = tuple(n for n in self._pairs.region(point.value).nodes if subgraphs_of(n))
            if nodes and nodes not in opened and len(opened) < _MOST_OPENED:
                opened[nodes] = self._inside(point)
                findings += opened[nodes]
            # Several results of the same control flow have the same causes.
            if not opened.get(nodes):
                findings.append(self._finding(point))
        return findings

    def _inside(self, point: Point) -> list[Finding]:
        """The parts at fault inside of the control flow that a value comes from."""
        found: list[Finding] = []
        try:
            original, region = self._like_region(point), self._pairs.region(point.value)
            for body in bodies_in(original, region, self._pairs):
                search = Dissection(
                    body.original,
                    body.rewritten,
                    body.feeds,
                    self._memory,
                    self._everything,
                    self._conversion,
                )
                for finding in search.faults():
                    place = dataclasses.replace(finding.point, position=point.position)
                    inside = (body.place, *finding.inside)
                    found.append(dataclasses.replace(finding, point=place, inside=inside))
        except CannotRunError as error:
            self._notes.append(f"{point.node} was not looked into: {error.reason}")
        return found

    def _largest(self) -> list[Finding]:
        """Where most is lost, although no part loses more than is usual."""
        points = [
            p
            for n, p in self._own.items()
            if n in self._pairs.likes and p.own is not None and p.own.rms and p.excess <= 1
        ]
        points.sort(key=lambda p: -p.own.rms if p.own else 0.0)
        return [self._finding(point) for point in points[:_MOST_LARGEST]]

    def _settle(self, names: list[str]) -> None:
        """Replays the parts that end in these values, until all pairs are true ones."""
        for _ in range(_MOST_ROUNDS):
            self._replay(names)
            strangers = self._strangers()
            if not strangers:
                break
            # Both have the name, but not the meaning: another layout, a factor moved away.
            for name in strangers:
                self._pairs.forget(name)
            names = self._affected(names, strangers)

    def _replay(self, names: Sequence[str]) -> None:
        pairs = self._pairs
        names = [name for name in names if name in pairs.likes]
        for chunk in chunks(names, pairs.sizes(names), self._budget):
            inputs = {v.name for n in chunk for v in pairs.region(n).frontier}
            needed = dict.fromkeys([*chunk, *(name for name in pairs.likes if name in inputs)])
            originals = pairs.compare(list(needed))
            regions = [pairs.region(name) for name in chunk if name in originals]
            # Pairs of unequal shape were forgotten, so that regions may have grown.
            missing = {v.name for r in regions for v in r.frontier} - originals.keys()
            if missing & pairs.likes.keys():
                originals |= pairs.compare([n for n in pairs.likes if n in missing])
                regions = [pairs.region(name) for name in chunk if name in pairs.likes]
            replayed = replay(pairs.other.model, regions, originals, pairs.feeds, self._conversion)
            for region in regions:
                name = region.value.name or ""
                if name in replayed:
                    self._judge(region, replayed[name], originals[name])

    def _judge(self, region: Region, own: Own, original: NDArray[Any]) -> None:
        name = region.value.name or ""
        self._own[name] = point = self._point(name, own)
        if point.excess > 1 or self._conversion is not None:
            # By both names: QuantizeLinear may read the value where the original makes it.
            same = (name, self._pairs.likes[name], _quantized_name(region))
            values = {**own.feeds, **dict.fromkeys(same, original)}
            first, last = list(rounding_causes(region, values)), list[str]()
            infinite = broken(original, own.result)
            words = infinite or relation(original, own.result)
            known = any(CLIPS in cause for cause in first)
            if words and not words.startswith(ROUNDED) and not known:
                (first if infinite else last).append(f"the result: {words}")
            self._causes[name] = first, last

    def _point(self, name: str, own: Own | None) -> Point:
        producer = self._pairs.other.values[name].producer()
        assert producer is not None
        node = producer if own is None else _worker(self._pairs.region(name))
        return Point(
            name,
            described(node),
            self._places[producer],
            self._pairs.totals.get(name),
            None if own is None else own.difference,
            0.0 if own is None else own.tolerance.rms,
            0.0 if own is None else excess(own.difference, own.tolerance),
        )

    def _strangers(self) -> list[str]:
        """Values with a large error that nothing behind them shows."""
        pairs = self._pairs
        faulty = [p for n, p in self._own.items() if n in pairs.likes and p.excess > 1]
        users: dict[str, list[str]] = {point.value: [] for point in faulty}
        for name in self._own.keys() & pairs.likes.keys() if faulty else ():
            for value in pairs.region(name).frontier:
                if value.name in users:
                    users[value.name].append(name)
        strangers = []
        for point in faulty:
            assert point.own is not None
            size = 1.0 if point.own.broken else max(point.own.rms, point.own.mismatches)
            behind = [pairs.totals[user] for user in users[point.value]]
            if behind and all(
                not d.broken and d.rms + d.mismatches <= _VANISHED * size for d in behind
            ):
                strangers.append(point.value)
                del self._own[point.value]
        return strangers

    def _affected(self, names: Sequence[str], gone: Sequence[str]) -> list[str]:
        """Values whose region has grown."""
        producers = {self._pairs.other.values[name].producer() for name in gone}
        return [
            name
            for name in names
            if name in self._pairs.likes and producers & set(self._pairs.region(name).nodes)
        ]

    def _faulty(self) -> list[Point]:
        faulty = [p for n, p in self._own.items() if n in self._pairs.likes and p.excess > 1]
        # What cannot be measured comes first, in the order of the graph.
        return sorted(faulty, key=lambda p: (-p.excess, p.position))

    def _like_region(self, point: Point) -> Region:
        pairs = self._pairs
        like = pairs.one.values[pairs.likes[point.value]]
        return find_region(like, set(pairs.likes.values()) - {like.name or ""})

    def _finding(self, point: Point) -> Finding:
        pairs = self._pairs
        region, original = pairs.region(point.value), self._like_region(point)
        causes = graph_causes(original, region, (pairs.one.model, pairs.other.model))
        first, last = self._causes.get(point.value, ([], []))
        inherited = [pairs.totals[v.name] for v in region.frontier if v.name in pairs.totals]
        rules = dict.fromkeys(rule for node in region.nodes for rule in rules_of(node))
        return Finding(
            point,
            tuple(node.name or "" for node in region.nodes),
            _labels(region),
            _labels(original),
            tuple(rules),
            tuple(dict.fromkeys([*first, *causes, *last])),
            max((d.rms for d in inherited), default=0.0),
        )


def _worker(region: Region) -> ir.Node:
    """The last node that computes, rather than converts."""
    computing = (n for n in region.nodes if n.op_type not in (*CONVERSIONS, "Constant"))
    quantizing = (n for n in region.nodes if n.op_type == "QuantizeLinear")
    return next(computing, None) or next(quantizing, region.nodes[0])


def _quantized_name(region: Region) -> str:
    """The name of what QuantizeLinear reads, if the value is what comes of that."""
    node = region.value.producer()
    for op_type in ("DequantizeLinear", "QuantizeLinear"):
        if node is None or node.op_type != op_type or node.inputs[0] is None:
            return ""
        value = node.inputs[0]
        node = value.producer()
    return value.name or ""


def _labels(region: Region) -> tuple[str, ...]:
    nodes = [node for node in region.nodes if node.op_type != "Constant"]
    return tuple(map(described, nodes or region.nodes))
