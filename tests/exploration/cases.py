"""Which worlds are explored: all that are of a size.

CI runs the controls and the pairs (44 worlds, 160,000 steps, a quarter of a minute): every mistake that was made on purpose in the core was
caught by worlds of one message or two. The 64 worlds of three messages in safe mode have 1.7 million states and 6.6 million steps, twenty
minutes of one busy core; there are as many in fast mode. They are for whoever changes the session, the link or what is committed when.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from tests.exploration.world import Case

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SETS"]


def mixtures(messages: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Yield all QoS 1 and 2 of so many messages in both directions, with each Receive Maximum that makes a difference."""
    for outbound in range(messages, -1, -1):
        for qos in product((1, 2), repeat=messages):
            for receive_maximum in (1, 2) if max(outbound, messages - outbound) > 1 else (1,):
                yield qos[:outbound], qos[outbound:], receive_maximum


def cases(messages: int, **more: int) -> list[Case]:
    """Return the cases of so many messages."""
    return [replace(Case(*mixture), **more) for mixture in mixtures(messages)]  # type: ignore[arg-type]


ONE_EACH = {"disconnects": 1, "crashes": 1}
TWO_AND_ONE = {"disconnects": 2, "crashes": 1}

QUICK = cases(1, **ONE_EACH)

ONES = [
    *cases(1, **TWO_AND_ONE, session_losses=1),
    *cases(1, **TWO_AND_ONE, session_losses=1, republish=True),
    *cases(1, **ONE_EACH, session_losses=1, rejections=1, refused_commits=1, failed_callbacks=1),
    *cases(1, **ONE_EACH, expiry=True),
    *cases(1, **ONE_EACH, fast=True),
    *cases(1, **ONE_EACH, session_losses=1, fine=True),
]

PAIRS = [*ONES, *cases(2, **ONE_EACH)]

TRIPLES = [*cases(3, **TWO_AND_ONE), *cases(3, **TWO_AND_ONE, fast=True)]

WHOLE = [
    *PAIRS,
    *cases(2, **TWO_AND_ONE),
    *cases(2, **ONE_EACH, session_losses=1),
    *cases(2, **ONE_EACH, fast=True),
    *cases(2, **ONE_EACH, fine=True),
    *cases(2, crashes=1, rejections=1, refused_commits=1, failed_callbacks=1),
    *cases(2, crashes=1, expiry=True),
    *TRIPLES,
]

SETS: dict[str, list[Case]] = {"quick": QUICK, "ones": ONES, "pairs": PAIRS, "triples": TRIPLES, "whole": WHOLE}
