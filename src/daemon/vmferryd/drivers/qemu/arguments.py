"""How QEMU's command line spells things."""

from __future__ import annotations

import json
from collections.abc import Mapping

Value = str | int | bool | None


def spell(first: str, values: Mapping[str, Value] | None = None) -> str:
    """One option's argument: `first`, then each value that is not None. Commas are doubled, booleans are on or off."""
    words = [_escape(first)] if first else []
    words += [f"{name}={_escape(_text(value))}" for name, value in (values or {}).items() if value is not None]
    return ",".join(words)


def spell_json(values: Mapping[str, object]) -> str:
    """The same as JSON, for the options that take it; values that are None are left out."""
    return json.dumps({name: value for name, value in values.items() if value is not None})


def _text(value: str | int | bool) -> str:  # noqa: FBT001 - a value of any kind
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _escape(text: str) -> str:
    return text.replace(",", ",,")
