"""Exhaustive exploration: every interleaving of a few messages, disconnects, a crash and a lost session, with the real core.

`world` is the world and what can happen in it, `broker` and `store` are its other inhabitants, `soundness` looks inside of the core. `search`
takes every way, from `copies`; `reduction` says which states are one and which steps are taken at once, and `equivalence` looks in each state
of small worlds whether that is right. `cases` says how large the worlds are, and `controls` breaks rules on purpose, each of which must be
caught. ``python -m tests.exploration`` runs it, with ``--check`` it compares; docs are in the modules.

What makes it small enough is that nothing is left out but what nobody could tell apart. Besides what `reduction` says of states and steps:

* Taking a turn and committing it are one step. What happens between them goes into the next turn, as it does behind the commit; a crash
  between them leaves the disk as a crash before both.
* Releasing a turn hands its bytes to the network in the same step. A link that breaks in between leaves a publication unsent, as one that
  breaks before the release does.
* What the client wrote arrives at once, or the first few packets do and the rest never does ("cut"). When it arrives shows only in when
  the answer is read, and that is a step. Cases marked ``fine`` do without this; they are explored as well, smaller.
* A callback that runs, returns and is answered is one step: the session knows only of the answer.
* In fast mode the disk falls behind at a commit of which it would have heard: before that there is nothing that it doesn't have.

What it leaves out on purpose, because no client can know better:

* A server that lost its session and whose CONNACK said so in vain would answer the next CONNECT with Session Present 1, for the new session.
  Here it says Session Present 0 until that was heard and is on disk.
* A process that dies between the commit of a message's failure and the moment when it would tell its user: nobody is told any more.
* After a power cut in fast mode, commits that the disk had not heard of are gone. What depends on them isn't promised: a QoS 2 message may
  arrive again, and one that gets the identifier of a forgotten exchange is taken for a repeat by the server.
"""

from __future__ import annotations
