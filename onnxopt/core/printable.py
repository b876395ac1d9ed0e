"""Text from models and records for a terminal, where control characters would act."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with everything escaped that is neither visible nor a space.

    Examples:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))
