"""What is in a bundle, in a few lines for a terminal."""

from __future__ import annotations

from onnxopt.runtime.bundles.manifest import Manifest
from onnxopt.runtime.session_settings import SessionSettings


def summary_lines(manifest: Manifest, *, verbose: bool) -> list[str]:
    """Session options, speed, samples, size and notes of a bundle."""
    facts = manifest.facts
    changes = manifest.session.changes(SessionSettings(provider=manifest.session.provider))
    lines = [f"session options: {', '.join(changes) or 'defaults'}"]
    tuning = facts.get("tuning")
    if tuning is not None:
        gain = tuning["gain"]
        found = "nothing proven faster" if gain is None else f"{gain['median']:.3f}x the defaults"
        lines[0] += f" ({len(tuning['attempts'])} changes tried, {found})"
        if verbose:
            lines += [
                f"  {attempt['change']}: {attempt['ratio']}{', kept' * attempt['kept']}"
                for attempt in tuning["attempts"]
            ]
        lines += [f"note: {note}" for note in tuning["notes"]]
    timing = facts.get("timing")
    if timing is not None:
        latency = timing["latency_ms"]
        line = f"latency: p50 {latency['p50']:.3g} ms, p90 {latency['p90']:.3g} ms"
        ratio = timing["ratio"]
        if ratio is not None:
            line += (
                f"; {ratio['median']:.3f}x the original (95 %: {ratio['low']:.3f} to "
                f"{ratio['high']:.3f})"
            )
        lines.append(f"{line}, {timing['inputs']}")
        if ratio is not None and ratio["verdict"] == "slower":
            lines.append("warning: slower than the original here")
    lines += [f"note: {note}" for note in facts.get("notes", ())]
    size = sum(entry.bytes for entry in manifest.files.values())
    lines.append(
        f"{len(manifest.files)} files, {size / 1e6:,.2f} MB, {len(manifest.samples)} samples"
    )
    return lines
