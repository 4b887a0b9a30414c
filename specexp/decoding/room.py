"""How far a round may draft: a streaming cache evicts at fixed places of the text, and no pass may reach across one.

So every method meets the same cache at every token, however many tokens its passes hold.
"""

from __future__ import annotations


def within(limit: int, room: int | None) -> int:
    """`limit`, or a runner's `room` where that is less (None: no bound)."""
    return limit if room is None or room > limit else room
