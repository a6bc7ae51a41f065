"""What the source says when its tunnel breaks."""

from __future__ import annotations

import pytest

from vmferryd.transfer.outgoing import _lost


@pytest.mark.parametrize(("said", "shown"), [("Internal error from Core", ""), ("Socket closed", "Socket closed")])
def test_a_tunnel_that_broke_says_between_whom(said: str, shown: str) -> None:
    """And repeats nothing that helps nobody."""
    error = _lost("no answer from the destination's daemon", remedy="check that vmferryd runs there", detail=said)
    assert ("the destination's daemon" in str(error), shown) == (True, error.detail)
    assert error.remedy
