"""Takes two models apart: compares paired values, replays parts, names those with an own error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.provenance import rules_of
from onnxopt.runtime.causes import graph_causes, saturation
from onnxopt.runtime.finding import Diagnosis, Finding, Point
from onnxopt.runtime.narrowing import narrow
from onnxopt.runtime.paired_values import PairedValues
from onnxopt.runtime.probing import chunks
from onnxopt.runtime.regions import Region, find_region
from onnxopt.runtime.relations import broken, relation
from onnxopt.runtime.replay import Own, excess, replay
from onnxopt.runtime.session import CannotRunError, Feeds

# Arrays that are alive at a time for each value of a chunk: the original's, the other's or the
# replayed ones, and what comparing takes.
_COPIES = 4
_MOST_ROUNDS = 40
# Downstream of a value with an error, so little of it is nothing: the value was no pair.
_VANISHED = 0.01


class Dissection:
    """One search.

    Args:
        original: The reference.
        rewritten: What became of it.
        feeds: Inputs on which their outputs differ.
        memory: Bytes for values at a time.
        everything: Look at all values.
    """

    def __init__(
        self,
        original: ir.Model,
        rewritten: ir.Model,
        feeds: Feeds,
        memory: int,
        everything: bool,
    ) -> None:
        self._pairs = PairedValues(original, rewritten, feeds)
        self._budget = memory // _COPIES
        self._everything = everything
        self._places = {node: place for place, node in enumerate(self._pairs.other.model.graph)}
        self._own: dict[str, Point] = {}
        self._causes: dict[str, list[str]] = {}
        self._notes: list[str] = []

    def run(self, found: Diagnosis) -> Diagnosis:
        """The diagnosis with the parts at fault."""
        pairs = self._pairs
        try:
            names = everything = list(pairs.likes)
            if not self._everything:
                names = narrow(pairs, names, self._budget)
            self._settle(names)
            if len(names) < len(everything) and not self._findings():
                self._settle(everything)
        except CannotRunError as error:
            self._notes.append(f"the search stopped: {error.reason}")
        findings = self._findings()
        if not findings and found.status == "different":
            self._notes.append(
                "no part has an error of its own when run as written: the difference comes from "
                "what ONNX Runtime's optimizations make of the models, or from many small ones"
            )
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
            replayed = replay(pairs.other.model, regions, originals, pairs.feeds)
            for region in regions:
                name = region.value.name or ""
                if name in replayed:
                    self._judge(region, replayed[name], originals[name])

    def _judge(self, region: Region, own: Own, original: NDArray[Any]) -> None:
        name = region.value.name or ""
        self._own[name] = point = self._point(name, own)
        if point.excess > 1:
            words = broken(original, own.result) or relation(original, own.result)
            feeds = {**own.feeds, self._pairs.likes[name]: original}
            self._causes[name] = [*saturation(region, feeds), f"the result: {words}"]

    def _point(self, name: str, own: Own | None) -> Point:
        producer = self._pairs.other.values[name].producer()
        assert producer is not None
        return Point(
            name,
            f"{producer.op_type} {producer.name!r}",
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

    def _findings(self) -> list[Finding]:
        faulty = [p for n, p in self._own.items() if n in self._pairs.likes and p.excess > 1]
        # What cannot be measured comes first, in the order of the graph.
        faulty.sort(key=lambda p: (-p.excess, p.position))
        return [self._finding(point) for point in faulty]

    def _finding(self, point: Point) -> Finding:
        pairs = self._pairs
        region = pairs.region(point.value)
        like = pairs.one.values[pairs.likes[point.value]]
        original = find_region(like, set(pairs.likes.values()) - {like.name or ""})
        causes = graph_causes(original, region, (pairs.one.model, pairs.other.model))
        inherited = [pairs.totals[v.name] for v in region.frontier if v.name in pairs.totals]
        rules = dict.fromkeys(rule for node in region.nodes for rule in rules_of(node))
        return Finding(
            point,
            tuple(node.name or "" for node in region.nodes),
            _labels(region),
            _labels(original),
            tuple(rules),
            tuple(dict.fromkeys([*causes, *self._causes.get(point.value, ())])),
            max((d.rms for d in inherited), default=0.0),
        )


def _labels(region: Region) -> tuple[str, ...]:
    nodes = [node for node in region.nodes if node.op_type != "Constant"]
    return tuple(f"{node.op_type} {node.name!r}" for node in nodes or region.nodes)
