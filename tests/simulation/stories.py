"""Stories that failed once, as short as they could be made: what was wrong with the client, and what happened to show it."""

from __future__ import annotations

from tests.simulation.story import Setting, Step, Story

__all__ = ["STORIES"]

STORIES = {
    # The disk refused to the end: the next process, in the same step, tells again what became of a message whose row is still there.
    "what a refusing disk undoes may be told again": Story(
        Setting(database="safe", threads=True, queue_max=4, queue_policy=2),
        (
            Step("publish", 29_777),
            Step("publish", 60_931),
            Step("publish_many", 40_364),
            Step("disconnect"),
            Step("fail", 20_390),
            Step("publish"),
            Step("close"),
            Step("busy"),
        ),
    ),
    # The committer failed behind the back of the I/O thread, which slept on: CONNECT left 30 s later, or never.
    "a refused commit is tried again in time": Story(
        Setting(database="safe", threads=True), (Step("fail", 1), Step("step"), Step("dial"), Step("step"), Step("commit"))
    ),
    # The time of the next try was over, and somebody was at it: the driver looked again and again until he was done.
    "the driver sleeps while somebody commits": Story(
        Setting(database="fast"),
        (
            Step("drain", 0, 0, "commit"),
            Step("disconnect", 0, 2, "commit"),
            Step("fail", 1),
            Step("publish", 2),
            Step("publish", 1),
        ),
    ),
    # The CONNACK that brought the foreign session had a Maximum Packet Size, and our DISCONNECT was larger.
    "a goodbye fits into what the same CONNACK allows": Story(
        Setting(overlap=True), (Step("limits", 15_550), Step("advance", 56_847, 41_596), Step("crash"))
    ),
    # Nobody waited for the acknowledgement of a cancelled publication, so that nobody noted since when its row's deletion trailed.
    "the row of a cancelled publication goes in time": Story(
        Setting(database="safe"), (Step("publish", 26_369), Step("run", 2), Step("cancel"))
    ),
    # A turn that needed no disk made room for rows, and only turns that do looked for rows.
    "rows are loaded when a turn without a journal made room": Story(
        Setting(database="fast", threads=True, window=2), (Step("publish"), Step("publish"), Step("publish_many", 45_991, 14_275))
    ),
    "rows are loaded when an old message gave way to a new one": Story(
        Setting(database="fast", threads=True, window=2, queue_max=4, queue_policy=2),
        (
            Step("publish"),
            Step("publish", 0, 0, "send"),
            Step("publish", 0, 0, "commit"),
            Step("publish"),
            Step("run"),
            Step("publish", 16_825),
            Step("step"),
        ),
    ),
    # Its row had the whole interval again from the end of its commit on, and so had the message that was made of the row.
    "the interval of a publication runs while its call waits for the disk": Story(
        Setting(database="safe", window=1),
        (Step("publish"), Step("advance", 35_859, 0, "commit"), Step("publish", 50_387), Step("disconnect")),
    ),
    # The judge was wrong: the second had dropped the first, whose handle a goodbye had resolved.
    "what a goodbye has resolved may be dropped for another": Story(
        Setting(database="safe", window=1, queue_max=2, queue_policy=2),
        (Step("publish"), Step("disconnect", 0, 0, "commit"), Step("publish_many", 13_768, 4_409)),
    ),
    # The judge was wrong: nobody counts on its place.
    "a cancelled publication may overtake another with a goodbye": Story(
        Setting(database="fast", expiry_s=0),
        (Step("step"), Step("run", 42_305), Step("publish_many", 49_574), Step("cancel", 54_959), Step("disconnect")),
    ),
    # The judge was wrong: the time for the goodbye was over when the disk took its turn, and it left all the same.
    "what leaves with a goodbye leaves with a late one too": Story(
        Setting(database="safe", threads=True, expiry_s=0),
        (Step("publish", 40_789), Step("run"), Step("fail", 9_130), Step("run", 54_386), Step("cancel"), Step("disconnect")),
    ),
    # The judge was wrong: the server had not heard that a callback refused the message, which came again when nobody wanted it any more.
    "a refused message that comes again may be unwanted": Story(
        Setting(on_message=False),
        (
            Step("advance"),
            Step("poison"),
            Step("run", 26_341),
            Step("raise"),
            Step("publish", 39_431),
            Step("message"),
            Step("advance", 57_391),
            Step("unsubscribe"),
            Step("run", 7_311),
        ),
    ),
    # The judge was wrong: the call of one thread waited for the callback on another, looked each 5 ms, and was not patient enough.
    "a goodbye waits for a callback": Story(
        Setting(database="safe"),
        (
            Step("disconnect", 0, 59_854),
            Step("crash"),
            Step("message"),
            Step("publish", 55_880, 0, "callback"),
            Step("disconnect", 0, 0, "commit"),
            Step("disconnect", 0, 56_431),
        ),
    ),
    # The judge was wrong: the first CONNECT got no answer, and so the client could not know that the session is another's.
    "a foreign session may be found where an attempt got no answer": Story(
        Setting(overlap=True),
        (
            Step("step"),
            Step("run"),
            Step("subscribe"),
            Step("publish", 8_990),
            Step("step"),
            Step("up", 0, 5_563),
            Step("crash"),
            Step("publish_many", 2_192),
            Step("advance"),
            Step("cut"),
        ),
    ),
    # What was left out because its session had ended announced its alias all the same, and the next one left with nothing but that.
    "what does not leave announces no alias": Story(
        Setting(database="safe", threads=True),
        (
            Step("publish", 5_906, 5_713),
            Step("publish", 0, 63_565),
            Step("limits", 0, 29_216),
            Step("advance"),
            Step("publish"),
            Step("disconnect", 0, 52_955),
        ),
    ),
    # The judge was wrong: with a Receive Maximum of 1 it takes a while until the last of so many has had its turn.
    "it takes many rounds to send much one at a time": Story(
        Setting(database="fast", threads=True, server_receive_maximum=1), (Step("busy", 52_190), Step("busy", 5_645))
    ),
    # The judge was wrong: it asked the handle of a process that had died whether its message had ended.
    "what a former process published leaves with a goodbye": Story(
        Setting(database="safe"),
        (
            Step("run", 3),
            Step("down", 0, 0, "commit"),
            Step("answer", 0, 0, "commit"),
            Step("publish", 30_350),
            Step("fail", 30_155, 0, "send"),
            Step("crash"),
            Step("disconnect", 0, 0, "commit"),
            Step("publish", 45_952),
            Step("limits", 0, 26_441),
            Step("run", 10_623),
        ),
    ),
    # The judge was wrong: what a process has sent may arrive when the next one has begun.
    "the last words of a former process are its own": Story(
        Setting(overlap=True),
        (
            Step("publish", 38_809),
            Step("wait", 0, 9_202),
            Step("crash", 23_285, 0, "callback"),
            Step("crash"),
            Step("message"),
            Step("busy", 47_221),
            Step("run", 20_593),
        ),
    ),
    # The session of a CONNECT whose CONNACK was lost was taken for the one before, and its subscriptions were missing for ever.
    "a new session that nobody has told the client of gets its subscriptions": Story(
        Setting(jitter=0.0),
        (
            Step("run", 61_943),
            Step("cut"),
            Step("step"),
            Step("step"),
            Step("up"),
            Step("step"),
            Step("advance"),
            Step("up", 0, 22_611),
            Step("cut"),
        ),
    ),
}
