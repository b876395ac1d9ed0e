"""The shell of an HTML page that needs nothing but itself: light and dark, narrow and wide."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #5d6673; --line: #d5d9e0;
  --total: #2f6fb2; --own: #c8472f; --c0: #2f6fb2; --c1: #b8660f; --c2: #2f855a; --c3: #a03a77;
  --c4: #6b57b8; --c5: #7d6a35; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181d; --ink: #e4e7ec; --soft: #a0a8b5;
  --line: #363d48; --total: #6fa8e6; --own: #f0836c; --c0: #6fa8e6; --c1: #e59a4a; --c2: #5fbf8a;
  --c3: #dc82b6; --c4: #a595ea; --c5: #c4ad6c; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1060px; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin-top: 2rem; }
h1, p, li { overflow-wrap: anywhere; } .soft { color: var(--soft); }
ol { padding-left: 1.6rem; } ol > li { margin-bottom: 1.2rem; } code { font-size: .92em; }
ul { margin: .2rem 0; padding-left: 1.1rem; }
/* A plot that shrank to the width of a phone could not be read: it scrolls. */
.plot { overflow-x: auto; } svg { display: block; width: 100%; min-width: 640px; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg text.name { fill: var(--ink); }
"""


def page(title: str, heading: str, parts: Iterable[str], style: str = "") -> str:
    """A page as HTML.

    Args:
        title: Of the window.
        heading: Above all.
        parts: HTML of the rest, in order.
        style: Further CSS.
    """
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>",
            f"<h1>{escape(heading)}</h1>",
            *parts,
            "</body></html>",
            "",
        ]
    )
