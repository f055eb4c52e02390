"""``python -m ohmqtt demo``: messages that arrive exactly once, although their publisher is killed and their broker goes away."""

from __future__ import annotations

from .command import add, run

__all__ = ["add", "run"]
