"""Mutation check: bugs that published clients have had, put into ours by hand one at a time, and each has to be caught.

`lost.py`, `stuck.py`, `wire.py` and `told.py` hold them as data (`bug.py`): which text of which file becomes what, what users saw because of it,
and who has to notice: a test, and most of them the simulation too. `check.py` breaks a private copy of the tree and asks both; the checkout
stays as it is.

``python -m tests.mutations`` runs all, ``--only TEXT`` some of them. A bug that nobody catches asks for a test.
"""

from __future__ import annotations
