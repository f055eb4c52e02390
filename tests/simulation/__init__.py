"""Deterministic simulation: the real client in a made-up world, where everything that can go wrong does, in an order that a seed decides.

A *story* (`story`) is a list of small steps made from a seed. It is played (`play`) on a *stage* (`stage`): the real `Client` (`process`),
with threads or without, over a network, a disk and a clock that are made up (`surroundings`), against a model of a server (`server`,
`wire`) that is exact, strict and independent of the library's own code. What the steps do is in `user` (the calls of the client) and in
`fate` (all the rest). The *judge* (`judge`, `books`) holds every promise of the design against what happened, at each step and at the end.
A failing story is shrunk to a few steps and told in words (`runner`); those that were worth it are kept (`stories`).

``python -m tests.simulation --seeds 1000`` plays fresh stories, with ``--start N`` those from seed N on, ``--seed N`` tells one of them,
``--minutes 60`` plays as many as there is time for, and ``--jobs 0`` on all cores.
"""

from __future__ import annotations
