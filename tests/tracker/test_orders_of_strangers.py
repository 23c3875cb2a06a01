"""What one order says cannot stop what another one wants."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracker.services import publish, service_on

from p2pfill.model.policy import FillPolicy, together
from p2pfill.tracker.checks import POLICY_S_MAX, RequestRefused
from p2pfill.tracker.records import FillRequest

HONEST = FillPolicy()
LONGEST = FillPolicy(*POLICY_S_MAX.values(), escalate=False)
ANY = st.builds(FillPolicy, *(st.floats(0.001, longest) for longest in POLICY_S_MAX.values()), escalate=st.booleans())


async def test_an_order_of_highest_priority_does_not_lengthen_the_waits_of_others(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 3)
        await service.add_fill(FillRequest(title, "all", ["http://good/"]))
        await service.add_fill(FillRequest(title, "all", ["http://drips/"], priority=1_000_000, policy=LONGEST))
        service.handle_heartbeat("n1", make.report(make.info("n1")))
        (order,) = service.orders("n1")
        assert order.policy == HONEST
        assert set(order.origins) == {"http://good/", "http://drips/"}


@given(st.lists(ANY, min_size=1, max_size=4))
def test_together_is_no_longer_than_any_and_one_alone_is_itself(policies: list[FillPolicy]) -> None:
    both = together(policies)
    for policy in policies:
        assert both.stall_wait_s <= policy.stall_wait_s
        assert both.request_timeout_s <= policy.request_timeout_s
        assert both.quarantine_s <= policy.quarantine_s
        assert both.escalate or not policy.escalate
    assert together(policies[:1]) == policies[0]
    assert together([both, *policies]) == both


@pytest.mark.parametrize("key", POLICY_S_MAX)
@pytest.mark.parametrize("value", [0.0, -1.0, 7 * 86400.0, 1.7e308, math.inf, math.nan])
async def test_waits_of_an_order_are_within_reason(tmp_path: Path, make: Any, key: str, value: float) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 3)
        with pytest.raises(RequestRefused, match=key):
            await service.add_fill(FillRequest(title, "all", [], policy=FillPolicy(**{key: value})))
