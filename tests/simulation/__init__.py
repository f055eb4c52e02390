"""Deterministic simulation: the real client in a made-up world, where everything that can go wrong does, in an order that a seed decides.

A *story* (`story.py`) is a list of small steps made from a seed. It is played (`play.py`) by the real `Client` without threads, over
a network, a disk and a clock that are made up (`surroundings.py`), against a model of a server (`server.py`) that is exact, strict and
independent of the library's own code. The *judge* (`judge.py`) holds every promise of the design against what happened, at each step and at
the end. A failing story is shrunk to a few steps and printed in words.

``python -m tests.simulation --seeds 1000`` runs stories, ``--seed N`` one of them, ``--minutes 60`` as many as there is time for.
"""

from __future__ import annotations
