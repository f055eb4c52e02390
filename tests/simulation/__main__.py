"""``python -m tests.simulation``: run many stories, or one."""

from __future__ import annotations

from tests.simulation.runner import main

raise SystemExit(main())
