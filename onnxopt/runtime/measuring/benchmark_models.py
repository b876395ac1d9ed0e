"""Benchmarking models: sessions, inputs, interleaved rounds, load cost and profile."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.binding import feeds_for, run_call
from onnxopt.runtime.inputs.bench_inputs import batch_of, bench_inputs, plan_bench_inputs
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.measuring.benchmark_result import BenchmarkResult, ModelBenchmark
from onnxopt.runtime.measuring.benchmark_settings import BenchmarkSettings
from onnxopt.runtime.measuring.benchmarked import Source, as_source, model_names
from onnxopt.runtime.measuring.interleaving import Call, Timings, time_interleaved
from onnxopt.runtime.measuring.load_cost import measure_load
from onnxopt.runtime.measuring.profiling import profile_model
from onnxopt.runtime.measuring.ratio import ratio_between
from onnxopt.runtime.measuring.session_count import affordable_sessions
from onnxopt.runtime.providers import check_provider, find_providers
from onnxopt.runtime.saved_options import in_words, saved_options
from onnxopt.runtime.session import Feeds, Session, open_session
from onnxopt.runtime.session_settings import SessionSettings

# On a busy machine rounds go on for up to so many times as long.
_LONGEST = 4.0
# Idle threads of one session would spin into the turn of the next one.
_CONFIG = {"session.force_spinning_stop": "1"}


def benchmark_models(
    models: Sequence[Source],
    settings: BenchmarkSettings,
    *,
    inputs: Any = None,
    batch: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> BenchmarkResult:
    """Measures models together, on the same inputs.

    Raises:
        OnnxOptError: A model cannot be read or run, or takes other inputs than the first.
    """
    return Bench(models, settings).run(inputs, batch, input_shapes)


class Bench:
    """One benchmark.

    Args:
        models: The models; ratios are to the first.
        settings: How to run them.

    Attributes:
        notes: What limits the figures.
    """

    def __init__(self, models: Sequence[Source], settings: BenchmarkSettings) -> None:
        self.models = models
        self.settings = settings
        self.providers = find_providers(settings.provider)
        self.names = model_names(models)
        self.notes: list[str] = []
        self.options = [
            SessionSettings(
                optimization=settings.optimization,
                disabled_optimizers=settings.disabled_optimizers,
            )
        ] * len(models)

    def run(
        self, inputs: Any, batch: int | None, input_shapes: Mapping[str, Sequence[int]] | None
    ) -> BenchmarkResult:
        """Measures everything."""
        graphs = [m if isinstance(m, ir.Model) else load_model(m) for m in self.models]
        if self.settings.saved_options:
            self.options = [self.saved(index, graph) for index, graph in enumerate(graphs)]
        plan = plan_bench_inputs(graphs[0], inputs, batch=batch, input_shapes=input_shapes)
        if len(plan.data) > 1:
            self.notes.append(f"timed on the first of {len(plan.data)} input sets")
        sessions = [[self.open(index)] for index in range(len(self.models))]
        one = bench_inputs(sessions[0][0], plan)
        feeds = [
            feeds_for(opened[0], one.feeds, name)
            for opened, name in zip(sessions, self.names, strict=True)
        ]
        self.open_more(sessions, self.count(graphs, sessions, feeds))
        timings, columns = self.time(sessions, feeds)
        count = len(sessions[0])
        del sessions
        items = batch_of(plan, one)
        found = [
            self.figures(index, timings, columns, feeds[index], items)
            for index in range(len(self.models))
        ]
        described = dataclasses.asdict(self.settings) | {
            "sessions": count,
            "rounds": len(timings.rounds),
            "batch": items,
        }
        return BenchmarkResult(tuple(found), one.description, described, tuple(self.notes))

    def saved(self, index: int, graph: ir.Model) -> SessionSettings:
        """The options that a model names itself, or those of the benchmark."""
        found = saved_options(graph)
        if found is None:
            self.notes.append(f"{self.names[index]} has no session options of its own")
            return self.options[index]
        self.notes.append(f"{self.names[index]}: {in_words(found)}")
        return found

    def open(self, index: int, profile_prefix: str | None = None) -> Session:
        """A new session of a model."""
        try:
            session = open_session(
                as_source(self.models[index]),
                optimization=self.options[index].optimization,
                threads=self.settings.threads,
                providers=self.providers,
                disabled_optimizers=self.options[index].disabled_optimizers,
                config=_CONFIG,
                profile_prefix=profile_prefix,
            )
        except CannotRunError as error:
            raise InvalidInputError(f"{self.names[index]} does not load: {error.reason}") from error
        check_provider(session, self.providers)
        return session

    def count(
        self,
        graphs: Sequence[ir.Model],
        sessions: Sequence[Sequence[Session]],
        feeds: Sequence[Feeds],
    ) -> int:
        """Sessions of each model that memory and time allow."""
        start = time.perf_counter()
        for index, opened in enumerate(sessions):
            try:
                opened[0].run(feeds[index])
            except CannotRunError as error:
                raise InvalidInputError(
                    f"{self.names[index]} does not run on these inputs: {error.reason}"
                ) from error
        count = affordable_sessions(
            graphs,
            time.perf_counter() - start,
            self.settings.seconds,
            self.settings.sessions,
        )
        if count < min(self.settings.sessions, 3) and len(self.models) > 1:
            self.notes.append(
                f"{count} session{'s' * (count > 1)} a model (large or slow): the interval "
                "assumes that sessions differ by 2 %"
            )
        return count

    def open_more(self, sessions: Sequence[list[Session]], count: int) -> None:
        """Opens further sessions in turns: none of the models gets all of the good places."""
        for turn in range(1, count):
            for offset in range(len(self.models)):
                index = (turn + offset) % len(self.models)
                sessions[index].append(self.open(index))

    def time(
        self, sessions: Sequence[Sequence[Session]], feeds: Sequence[Feeds]
    ) -> tuple[Timings, list[list[int]]]:
        """Times all sessions; returns the columns of each model's beside the times."""
        calls: list[Call] = []
        columns: list[list[int]] = []
        for index, opened in enumerate(sessions):
            columns.append([len(calls) + i for i in range(len(opened))])
            calls += [self.call(index, session, feeds[index]) for session in opened]

        def enough(rounds: NDArray[np.float64]) -> bool:
            others = [ratio_between(rounds, columns[0], other) for other in columns[1:]]
            return all(ratio.is_narrow for ratio in others)

        timings = time_interleaved(
            calls, seconds=self.settings.seconds, enough=enough, longest=_LONGEST
        )
        if not enough(timings.rounds):
            self.notes.append("this machine is busy: for a narrower interval give more --seconds")
        return timings, columns

    def call(self, index: int, session: Session, feeds: Feeds) -> Call:
        """One run of a model's session."""
        return run_call(session, feeds, device=self.settings.provider)

    def figures(
        self,
        index: int,
        timings: Timings,
        columns: Sequence[Sequence[int]],
        feeds: Feeds,
        batch: int,
    ) -> ModelBenchmark:
        """All figures of one model."""
        source, settings = self.models[index], self.settings
        load = None
        if settings.load and not isinstance(source, ir.Model):
            load = measure_load(
                source,
                feeds,
                providers=self.providers,
                threads=settings.threads,
                optimization=self.options[index].optimization,
                disabled_optimizers=self.options[index].disabled_optimizers,
            )
        return ModelBenchmark(
            self.names[index],
            np.concatenate([timings.runs[column] for column in columns[index]]),
            batch,
            load,
            profile_model(partial(self.open, index), feeds) if settings.profile else None,
            ratio_between(timings.rounds, columns[0], columns[index]) if index else None,
        )
