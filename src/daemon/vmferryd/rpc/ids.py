"""Migration ids as they come from the wire."""

from __future__ import annotations

import uuid

from vmferry.errors import InvalidParameter
from vmferry.model import MigrationId


def migration_id(text: str) -> MigrationId:
    """The id in its canonical form.

    Raises:
        InvalidParameter: it is missing, or no UUID.
    """
    try:
        return MigrationId(str(uuid.UUID(text)))
    except ValueError:
        raise InvalidParameter(
            f"{text!r} is no migration id" if text else "the call names no migration",
            remedy="give the UUID that Begin answered",
        ) from None
