"""What users have asked of a guest's run state while it moves. It counts when the migration has ended, wherever that is."""

from __future__ import annotations

from enum import StrEnum


class RunWish(StrEnum):
    """What differs from how the guest was when its migration began: nothing, or what somebody has asked for since."""

    NONE = "none"
    SUSPENDED = "suspended"
    RESUMED = "resumed"

    def applied_to(self, running: bool) -> bool:  # noqa: FBT001 - a run state is what it is about
        """Whether the guest is to run in the end, when without the wish it would be `running`."""
        return running if self is RunWish.NONE else self is RunWish.RESUMED
