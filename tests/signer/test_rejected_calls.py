"""Calls that ended before anyone was answerable for them are counted, by reason and address, and forgotten in time."""

from __future__ import annotations

from federation.signer.listeners import rejected_calls
from federation.signer.listeners.rejected_calls import MOST_ADDRESSES, PERIOD, RejectedCalls
from tests.support.clock import VirtualClock
from tests.support.memory import kept_by


async def test_what_is_of_late_passes_and_what_is_counted_stays() -> None:
    clock = VirtualClock()
    counts = RejectedCalls(clock)
    counts.note("late_message", "ipv4:192.0.2.1:1")
    await clock.advance(PERIOD)
    counts.note("late_message", "ipv4:192.0.2.1:2")
    counts.note("no_message", "ipv4:192.0.2.2:1")
    report = counts.report()
    assert report.recent == {"late_message": 2, "no_message": 1}
    assert report.addresses == {"192.0.2.1": 2, "192.0.2.2": 1}
    await clock.advance(PERIOD)
    assert counts.report().recent == {"late_message": 1, "no_message": 1}
    await clock.advance(PERIOD)
    report = counts.report()
    assert (report.recent, report.addresses) == ({}, {})
    assert report.total == {"late_message": 2, "no_message": 1}
    counts.note("no_message", "ipv4:192.0.2.2:2")
    await clock.advance(2 * PERIOD)  # and nothing was read meanwhile
    report = counts.report()
    assert (report.recent, report.addresses) == ({}, {})


def test_addresses_are_bounded() -> None:
    counts = RejectedCalls(VirtualClock())
    for number in range(MOST_ADDRESSES * 2):
        counts.note("late_message", f"ipv4:10.0.{number >> 8}.{number & 255}:1")
    kept = [text for text in kept_by(counts, str) if text.startswith("10.0.")]
    assert len(kept) == MOST_ADDRESSES
    assert len(counts.report().addresses) == rejected_calls.SHOWN
    assert counts.report().recent == {"late_message": MOST_ADDRESSES * 2}
