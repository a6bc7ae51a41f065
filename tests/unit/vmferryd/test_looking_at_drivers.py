"""A daemon that starts on a busy machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from vmferry.errors import DriverLost, DriverRefused, VmferryError
from vmferryd.app import looked_at
from vmferryd.drivers.base import Driver


class Slow:
    """A driver whose hypervisor answers each look with the next of these errors, and then as it should."""

    name = "qemu"

    def __init__(self, *errors: VmferryError) -> None:
        self.errors = list(errors)
        self.looks = 0

    async def capabilities(self) -> Any:
        """See `Driver`."""
        self.looks += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.mark.parametrize("errors", [[], [DriverLost("silence")], [DriverLost("silence")] * 2], ids=len)
async def test_a_hypervisor_that_does_not_answer_is_asked_again(errors: Sequence[VmferryError]) -> None:
    """Its start can take too long; a daemon without its driver would refuse every guest until it is started again."""
    driver = Slow(*errors)
    await looked_at(cast("Driver", driver))
    assert driver.looks == len(errors) + 1


async def test_a_hypervisor_that_never_answers_is_given_up() -> None:
    """A daemon that has other drivers goes on with those."""
    driver = Slow(*[DriverLost("silence")] * 9)
    with pytest.raises(DriverLost):
        await looked_at(cast("Driver", driver))
    assert driver.looks == 3


async def test_a_hypervisor_that_is_not_there_is_not_looked_for_again() -> None:
    """What is refused stays so."""
    driver = Slow(DriverRefused("no QEMU"))
    with pytest.raises(DriverRefused):
        await looked_at(cast("Driver", driver))
    assert driver.looks == 1
