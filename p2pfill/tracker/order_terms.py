"""An order as it is asked for, and as it is signed: each says all that the other does."""

from __future__ import annotations

from p2pfill.model.signed_order import OrderStatement
from p2pfill.tracker.records import FillRequest


def request_of(said: OrderStatement) -> FillRequest:
    """Return what a signed order asks for."""
    return FillRequest(
        said.title_id.hex(), said.selector, list(said.origins), said.priority, said.policy, said.deadline, said.files,
        said.now, said.rollback,
    )  # fmt: skip


def statement_of(wanted: FillRequest, *, domain: str, name: str, number: int, expires: int) -> OrderStatement:
    """Return what is to be signed of an order."""
    policy = wanted.policy
    return OrderStatement(
        domain, bytes.fromhex(wanted.title), name, number, expires, wanted.selector, tuple(wanted.origins),
        wanted.priority, float(policy.stall_wait_s), float(policy.request_timeout_s), float(policy.quarantine_s),
        policy.escalate, None if wanted.deadline is None else float(wanted.deadline), wanted.files, wanted.now,
        wanted.rollback,
    )  # fmt: skip
