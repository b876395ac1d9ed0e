"""The session options that a model was measured with, as plain data that can be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.providers import PROVIDERS
from onnxopt.runtime.session import Optimization, Session, open_session

Execution = Literal["sequential", "parallel"]

_MOST_THREADS = 1024
# What a record may set: nothing that is an address, a path or a library.
_CONFIG = frozenset(
    {
        *("session.set_denormal_as_zero", "session.disable_prepacking"),
        *("session.force_spinning_stop", "session.use_env_allocators"),
        *("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"),
        "session.dynamic_block_base",
    }
)
_PROVIDER_OPTIONS = frozenset(
    {
        *("cudnn_conv_algo_search", "prefer_nhwc", "use_tf32", "device_id", "gpu_mem_limit"),
        *("arena_extend_strategy", "cudnn_conv_use_max_workspace", "do_copy_in_default_stream"),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How to open a model in ONNX Runtime.

    Attributes:
        provider: "cpu" or "cuda".
        optimization: How far ONNX Runtime rewrites the graph on load.
        disabled_optimizers: Its optimizers to leave out, by name.
        threads: Threads inside an operator; None for ONNX Runtime's choice, the physical cores.
        execution: "parallel" also runs operators beside each other.
        spinning: Idle threads spin, which is fast and keeps cores busy between runs.
        arena: Freed memory is kept for the next run.
        config: More entries of ONNX Runtime's session configuration.
        provider_options: Options of the first provider.
    """

    provider: str = "cpu"
    optimization: Optimization = "all"
    disabled_optimizers: tuple[str, ...] = ()
    threads: int | None = None
    execution: Execution = "sequential"
    spinning: bool = True
    arena: bool = True
    config: Mapping[str, str] = dataclasses.field(default_factory=dict)
    provider_options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def open(
        self,
        model: Path | ir.Model,
        *,
        provider: str | None = None,
        optimized_path: Path | None = None,
    ) -> Session:
        """Opens a model.

        Args:
            model: Its file, or the model in memory.
            provider: Another provider than the one of the settings; its options are then left out.
            optimized_path: Write the graph there as ONNX Runtime has rewritten it.

        Raises:
            CannotRunError: ONNX Runtime refuses it.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        own = provider in (None, self.provider)
        return open_session(
            model,
            optimization=self.optimization,
            threads=self.threads,
            providers=PROVIDERS[provider or self.provider],
            provider_options=self.provider_options if own else {},
            disabled_optimizers=self.disabled_optimizers,
            execution=self.execution,
            spinning=self.spinning,
            arena=self.arena,
            config=self.config,
            optimized_path=optimized_path,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as what JSON can hold."""
        plain = dataclasses.asdict(self)
        return {**plain, "disabled_optimizers": list(self.disabled_optimizers)}

    def changes(self, base: SessionSettings) -> list[str]:
        """What differs from other settings, in words."""
        return [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(base, field.name)
        ]


def settings_from(data: Any, where: str) -> SessionSettings:
    """Reads settings that `to_dict` made.

    Raises:
        InvalidInputError: There is something else in them; the message names it after `where`.
    """
    checks: dict[str, Callable[[Any], bool]] = {
        "provider": lambda v: isinstance(v, str) and v in PROVIDERS,
        "optimization": lambda v: v in get_args(Optimization),
        "disabled_optimizers": lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v),
        "threads": lambda v: v is None or (_is_count(v) and v <= _MOST_THREADS),
        "execution": lambda v: v in get_args(Execution),
        "spinning": lambda v: isinstance(v, bool),
        "arena": lambda v: isinstance(v, bool),
        "config": lambda v: _is_texts(v) and v.keys() <= _CONFIG,
        "provider_options": lambda v: _is_texts(v) and v.keys() <= _PROVIDER_OPTIONS,
    }
    if not isinstance(data, dict):
        raise InvalidInputError(f"{where}: the session options are no table")
    for name in data.keys() - checks.keys():
        raise InvalidInputError(f"{where}: there is no session option {str(name)[:60]!r}")
    for name, good in checks.items():
        if name in data and not good(data[name]):
            shown = repr(data[name])[:60]
            raise InvalidInputError(f"{where}: session option {name} cannot be {shown}")
    given = dict(data)
    given["disabled_optimizers"] = tuple(given.get("disabled_optimizers", ()))
    return SessionSettings(**given)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, str) for k, v in value.items()
    )
