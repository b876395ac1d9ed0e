"""README.md of a bundle: what it is, what was measured, and how to load it without onnxopt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.runtime.providers import PROVIDERS
from onnxopt.runtime.session_settings import SessionSettings

_PYTHON = """```python
import onnxruntime as ort

options = ort.SessionOptions()
{options}
session = ort.InferenceSession(
    "{model}",
    options,
    providers={providers},
    provider_options={provider_options},
    disabled_optimizers={disabled},
)
outputs = session.run(None, {{{feeds}}})
```"""

_CPP = """```cpp
#include <onnxruntime_cxx_api.h>

Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "app");
Ort::SessionOptions options;
{options}
Ort::Session session(env, ORT_TSTR("{model}"), options);
```"""

_LEVELS = {"all": "ALL", "extended": "EXTENDED", "basic": "BASIC"}


def bundle_readme(
    model: str, settings: SessionSettings, inputs: Mapping[str, str], facts: Mapping[str, Any]
) -> str:
    """The text.

    Args:
        model: File of the model.
        settings: How to open it.
        inputs: Input name to its type and shape in words.
        facts: What was recorded (see `Manifest.facts`).
    """
    environment = facts.get("environment", {})
    versions = environment.get("versions", {})
    runtime = versions.get("onnxruntime") or versions.get("onnxruntime-gpu")
    parts = [
        f"# {model}",
        "An ONNX model with the session options that it was measured with. `bundle.json` has the "
        "record: hashes, parity, timing, the passes and the command that made it.",
        f"Measured on {environment.get('cpu') or 'an unnamed CPU'} "
        f"({environment.get('isa')}) with ONNX Runtime {runtime}.",
        *_measured(facts),
        "## Check it",
        "```console\n$ pip install 'onnxopt[cpu]'\n$ onnxopt verify .\n```",
        "It compares hashes, opens the model and runs the samples in `samples/`.",
        "## Load it",
        'With onnxopt: `onnxopt.runtime.load_bundle(".")` returns the session. With ONNX Runtime '
        "alone, in Python:",
        _python(model, settings, inputs),
        "In C++:",
        _cpp(model, settings),
        "## Inputs",
        "\n".join(f"- `{name}`: {text}" for name, text in inputs.items()) or "None.",
    ]
    return "\n\n".join(parts) + "\n"


def _measured(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    timing = facts.get("timing")
    if timing and timing.get("ratio"):
        ratio = timing["ratio"]
        lines.append(
            f"- Speed: {ratio['median']:.2f} times that of "
            f"{facts.get('original') or facts['source']['name']} "
            f"(95 %: {ratio['low']:.2f} to {ratio['high']:.2f}: {ratio['verdict']}), "
            f"{timing['inputs']}."
        )
    parity = facts.get("parity")
    if parity and parity.get("summary"):
        lines.append(f"- {parity['summary'][0].upper()}{parity['summary'][1:]}.")
    tuning = facts.get("tuning")
    if tuning:
        gain = tuning["gain"]
        lines.append(
            "- Session options: the defaults, nothing else was proven faster."
            if gain is None
            else f"- Session options: {gain['median']:.2f} times as fast as the defaults."
        )
    return ["\n".join(lines)] if lines else []


def _python(model: str, settings: SessionSettings, inputs: Mapping[str, str]) -> str:
    level = settings.optimization
    name = "ORT_DISABLE_ALL" if level == "disabled" else f"ORT_ENABLE_{_LEVELS[level]}"
    lines = [f"options.graph_optimization_level = ort.GraphOptimizationLevel.{name}"]
    if settings.threads is not None:
        lines.append(f"options.intra_op_num_threads = {settings.threads}")
    if settings.execution == "parallel":
        lines.append("options.execution_mode = ort.ExecutionMode.ORT_PARALLEL")
    if not settings.arena:
        lines.append("options.enable_cpu_mem_arena = False")
    lines += [
        f"options.add_session_config_entry({key!r}, {value!r})"
        for key, value in _config(settings).items()
    ]
    providers = list(PROVIDERS[settings.provider])
    return _PYTHON.format(
        options="\n".join(lines),
        model=model,
        providers=providers,
        provider_options=[dict(settings.provider_options), *({} for _ in providers[1:])],
        disabled=list(settings.disabled_optimizers),
        feeds=", ".join(f"{name!r}: ..." for name in inputs),
    )


def _cpp(model: str, settings: SessionSettings) -> str:
    level = settings.optimization
    name = "ORT_DISABLE_ALL" if level == "disabled" else f"ORT_ENABLE_{_LEVELS[level]}"
    lines = [f"options.SetGraphOptimizationLevel(GraphOptimizationLevel::{name});"]
    if settings.threads is not None:
        lines.append(f"options.SetIntraOpNumThreads({settings.threads});")
    if settings.execution == "parallel":
        lines.append("options.SetExecutionMode(ExecutionMode::ORT_PARALLEL);")
    if not settings.arena:
        lines.append("options.DisableCpuMemArena();")
    config = _config(settings)
    if settings.disabled_optimizers:
        config["optimization.disable_specified_optimizers"] = ";".join(settings.disabled_optimizers)
    lines += [f'options.AddConfigEntry("{key}", "{value}");' for key, value in config.items()]
    if settings.provider == "cuda":
        lines += ["OrtCUDAProviderOptions cuda;", "options.AppendExecutionProvider_CUDA(cuda);"]
    return _CPP.format(options="\n".join(lines), model=model)


def _config(settings: SessionSettings) -> dict[str, str]:
    config = dict(settings.config)
    if not settings.spinning:
        config["session.intra_op.allow_spinning"] = "0"
    return config
