"""Lost or duplicated: messages, acknowledgements, their order, and what is known of them."""

from __future__ import annotations

from tests.mutations.bug import Bug

__all__ = ["LOST"]

LOST = (
    # -- on the way out ----------------------------------------------------------------------------------------------------
    Bug(
        "what was queued ends with a session that was lost",
        "Messages queued before the first connect are dropped, because the server answers with a new session.",
        "session/outbound.py",
        """        self.identity.free_all()
        self._requeue(again)
""",
        """        self.identity.free_all()
        for queued in list(self.queue):
            self.settle(queued, SessionLostError("the session is new"))
        self.queue.clear()
        self._requeue(again)
""",
        tests=("tests/test_session_core.py::test_session_present_resumes_and_session_lost_forgets",),
    ),
    Bug(
        "a row is deleted when its message gets an identifier",
        "The durable copy of a queued message goes before the one in flight exists: a kill between them loses it.",
        "session/outbound.py",
        "                self.baskets.record(SEND, message.sequence, packet_id)\n",
        "                self.baskets.record(DELETE, message.sequence)\n",
        tests=("tests/test_session_backlog.py::test_a_backlog_is_held_in_memory_window_by_window",),
    ),
    Bug(
        "PUBREC is not written down",
        "After a restart PUBLISH is sent again where PUBREL had been sent: the server takes it for a new message.",
        "session/outbound.py",
        "        self.baskets.record(RELEASE, message.sequence, self.release_order)\n",
        "",
        tests=("tests/test_session_outbound.py::test_releases_are_sent_again_in_the_order_of_their_pubrecs",),
    ),
    Bug(
        "a released exchange is taken up again as PUBLISH",
        "After a restart PUBLISH is sent again where PUBREL had been sent, although the database knows better.",
        "session/outbound.py",
        "            if row.released:\n",
        "            if row.released and not row.packet_id:\n",
        tests=("tests/test_session_outbound.py::test_releases_are_sent_again_in_the_order_of_their_pubrecs",),
    ),
    Bug(
        "what is in flight goes to a new session as it is",
        "Session Present is 0, and messages are sent again with their old identifiers and DUP.",
        "session/core.py",
        "            self.outbound.session_lost()\n            self.inbound.session_lost()\n        self.subscriptions.resume",
        "            self.inbound.session_lost()\n        self.subscriptions.resume",
        tests=("tests/test_session_core.py::test_the_end_of_a_session_is_on_disk_before_anything_of_the_new_one_leaves",),
    ),
    Bug(
        "DUP is not set",
        "What is sent again looks like a new message.",
        "link.py",
        "                    first |= 8  # [MQTT-3.3.1-1]\n",
        "                    pass\n",
        tests=("tests/test_session_outbound.py::test_a_resumed_session_sends_again_in_order_with_dup_and_before_what_is_new",),
    ),
    Bug(
        "PUBLISH is sent again when PINGRESP is late",
        "Messages are sent again inside of one connection, on a timer, which the standard forbids.",
        "session/core.py",
        "            link.tick(now, unread=unread)\n",
        "            link.tick(now, unread=unread)\n            if link.ping_pending:\n                self.outbound.resume(link)\n",
        tests=("tests/test_session_core.py::test_on_a_connection_that_lives_long_open_exchanges_are_kept_and_nothing_is_sent_again",),
    ),
    Bug(
        "what is sent again goes by packet identifier",
        "The order of messages changes once identifiers have wrapped around.",
        "session/outbound.py",
        "        self.resend = deque(self.in_flight.values())\n",
        "        self.resend = deque(self.in_flight[packet_id] for packet_id in sorted(self.in_flight))\n",
        tests=("tests/test_session_outbound.py::test_what_is_sent_again_keeps_its_order_when_identifiers_have_wrapped_around",),
        played=False,
    ),
    Bug(
        "rows in flight are loaded by packet identifier",
        "The order after a restart is that of packet identifiers.",
        "store.py",
        '"SELECT * FROM message WHERE packet_id > 65536 ORDER BY sequence"',
        '"SELECT * FROM message WHERE packet_id > 65536 ORDER BY packet_id"',
        tests=("tests/test_store.py::test_sqlite_store_keeps_the_protocol",),
        played=False,
    ),
    Bug(
        "PUBRELs are sent again by packet identifier",
        "PUBRELs leave in another order than that of their PUBRECs.",
        "session/outbound.py",
        "        for packet_id in self.released:  # [MQTT-4.6.0-4]\n",
        "        for packet_id in sorted(self.released):\n",
        tests=("tests/test_session_outbound.py::test_releases_are_sent_again_in_the_order_of_their_pubrecs",),
        played=False,
    ),
    Bug(
        "an error PUBREC is answered with PUBREL",
        "The server hears a PUBREL for an exchange that it has ended itself.",
        "session/outbound.py",
        "            self._complete(message, link, packet, 5)\n            return\n",
        '            self._complete(message, link, packet, 5)\n            writes.append(b"\\x62\\x02" + encode_uint16(packet_id))\n            return\n',
        tests=("tests/test_session_outbound.py::test_a_rejection_is_an_error_ends_the_exchange_and_gives_the_quota_back",),
    ),
    Bug(
        "a rejected publication looks like success",
        "PUBACK or PUBREC says that the server did not take the message, and nobody is told.",
        "session/outbound.py",
        "        if packet is not None and packet.reason_code >= 0x80 and not success:\n",
        "        if packet is not None and packet.reason_code >= 0x80 and packet_type == 7 and not success:\n",
        tests=("tests/test_session_outbound.py::test_a_rejection_is_an_error_ends_the_exchange_and_gives_the_quota_back",),
    ),
    Bug(
        "a rejection without a reason looks like success",
        "The server says 0x80, the first of all errors, and the border is drawn behind it.",
        "session/outbound.py",
        "        if packet is not None and packet.reason_code >= 0x80:  # [MQTT-4.4.0-2]",
        "        if packet is not None and packet.reason_code > 0x80:  # [MQTT-4.4.0-2]",
        tests=("tests/test_session_outbound.py::test_a_rejection_is_an_error_ends_the_exchange_and_gives_the_quota_back",),
        played=False,
    ),
    Bug(
        "PUBCOMP 0x92 to a PUBREL that was sent again is an error",
        "The server had finished the exchange before the connection broke, and the user is told that it failed.",
        "session/outbound.py",
        "            self._complete(message, link, packet, 7, success=True)\n",
        "            self._complete(message, link, packet, 7)\n",
        tests=("tests/test_session_outbound.py::test_a_refused_release_that_was_sent_before_is_success",),
    ),
    Bug(
        "the handles of a lost session are forgotten",
        "Whoever waits for an acknowledgement that can't come any more waits for ever.",
        "session/outbound.py",
        """                self.settle(
                    message,
                    SessionLostError("the server lost the session while the message was unacknowledged: it may have arrived or not"),
                )
""",
        """                self.messages -= 1
                self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
                message.state = SETTLED
                self.baskets.record(DELETE, message.sequence)
""",
        tests=("tests/test_session_outbound.py::test_a_lost_session_clears_what_was_sent",),
    ),
    Bug(
        "another client id may use the database",
        "A new client on the same database deletes what the first one had queued.",
        "session/identity.py",
        "        if client_id and client_id != owner:\n",
        "        if client_id and client_id != owner and not self.client_id:\n",
        tests=("tests/test_session_core.py::test_a_database_of_another_client_is_refused_and_not_changed",),
        played=False,
    ),
    Bug(
        "a released exchange is published anew",
        "The session is lost after PUBREC, and a message that the server has had is published again.",
        "session/outbound.py",
        "(republish and message.state == ASSIGNED)\n",
        "republish\n",
        tests=("tests/test_session_outbound.py::test_a_lost_session_republishes_what_has_no_pubrec",),
        played=False,
    ),
    Bug(
        "what a former process sent goes out without DUP",
        "After a restart what is sent again looks like a new message.",
        "session/outbound.py",
        "            message.sent = True\n            message.claimed = False\n",
        "            message.claimed = False\n",
        tests=("tests/test_session_outbound.py::test_releases_are_sent_again_in_the_order_of_their_pubrecs",),
    ),
    Bug(
        "what is published anew comes behind the queue",
        "After a lost session the oldest messages come last.",
        "session/outbound.py",
        "            self.queue.appendleft(message)\n",
        "            self.queue.append(message)\n",
        tests=("tests/test_session_outbound.py::test_a_lost_session_republishes_what_has_no_pubrec",),
    ),
    Bug(
        "a new message overtakes the backlog on disk",
        "The order of messages changes when some of them wait on disk.",
        "session/outbound.py",
        " and not self.queue and not self.stored_rows and not",
        " and not self.queue and not",
        tests=("tests/test_session_backlog.py::test_what_is_new_does_not_overtake_rows_that_are_still_to_be_loaded",),
        played=False,
    ),
    Bug(
        "each reconnect begins with Clean Start",
        "The caller asked for it once, and every broken connection loses the session.",
        "session/core.py",
        "        self.clean_start = False\n        identity",
        "        identity",
        tests=("tests/test_session_core.py::test_clean_start_holds_until_the_first_successful_connack",),
        played=False,
    ),
    Bug(
        "a goodbye ends the session that the database counts on",
        "The database keeps what was open, and the server has been told to forget it.",
        "session/core.py",
        "        if expiry_s is None and not self.durable and not self.expiry_named",
        "        if expiry_s is None and not self.expiry_named",
        tests=("tests/test_session_core.py::test_with_a_database_the_session_stays",),
        played=False,
    ),
    # -- on the way in ----------------------------------------------------------------------------------------------------
    Bug(
        "PUBREC leaves before its identifier is on disk",
        "The process dies, the server sends PUBLISH again, and the message is delivered again.",
        "session/inbound.py",
        "                self.baskets.record(RECEIVE, message.packet_id)\n",
        "                self.baskets.trail(RECEIVE, message.packet_id)\n",
        tests=("tests/test_session_inbound.py::test_an_identifier_is_on_disk_before_its_pubrec_and_off_it_before_its_pubcomp",),
    ),
    Bug(
        "what a refused publication leaves behind is looked for by number alone",
        "The disk is full for a moment, and an identifier is never written down because a message in the same turn had its number.",
        "session/outbound.py",
        "if entry[0] not in ABOUT_MESSAGES or _entry_sequence(entry) not in withdrawn]",
        "if _entry_sequence(entry) not in withdrawn]",
        tests=("tests/test_session_core.py::test_a_refused_commit_takes_publications_back_and_keeps_what_came_from_the_peer",),
        played=False,
    ),
    Bug(
        "PUBCOMP leaves before its identifier is off the disk",
        "The process dies, and a new message with that identifier is taken for the old one and swallowed.",
        "session/inbound.py",
        "            self.baskets.record(FORGET, packet_id)\n            self.baskets.writes",
        "            self.baskets.trail(FORGET, packet_id)\n            self.baskets.writes",
        tests=("tests/test_session_inbound.py::test_an_identifier_is_on_disk_before_its_pubrec_and_off_it_before_its_pubcomp",),
    ),
    Bug(
        "each connection begins with an empty received set",
        "A QoS 2 message that is sent again after a reconnect is delivered twice.",
        "session/core.py",
        "            self.inbound.session_lost()\n        self.subscriptions.resume",
        "        self.inbound.session_lost()\n        self.subscriptions.resume",
        tests=("tests/test_session_inbound.py::test_after_pubrec_the_exchange_goes_on_on_the_next_link",),
    ),
    Bug(
        "the received set outlives its session",
        "In the new session a new message with an old identifier is swallowed.",
        "session/inbound.py",
        "        self.received.clear()\n        self.repeated.clear()\n",
        "        self.repeated.clear()\n",
        tests=("tests/test_session_inbound.py::test_a_lost_session_forgets_identifiers_and_keeps_messages",),
    ),
    Bug(
        "a repeat without DUP is a new message",
        "A QoS 2 message is delivered twice, because the flag was believed and not the identifier.",
        "session/inbound.py",
        "        if packet_id in self.received:  # [MQTT-4.3.3-10]",
        "        if packet_id in self.received and message.dup:  # [MQTT-4.3.3-10]",
        tests=("tests/test_session_inbound.py::test_a_qos_2_repeat_before_pubrel_is_answered_again_and_not_delivered_again",),
        played=False,
    ),
    Bug(
        "one table of identifiers for both directions",
        "A message from the server is swallowed, because one of ours in flight has the same identifier.",
        "session/receiving.py",
        "                elif message.qos == 1:\n",
        "                elif message.packet_id in outbound.in_flight:\n                    pass\n                elif message.qos == 1:\n",
        tests=("tests/test_session_inbound.py::test_identifiers_of_the_two_directions_do_not_meet",),
    ),
    Bug(
        "PUBACK leaves before the callback has run",
        "Messages are acknowledged and then lost: with the process, or because a queue is full.",
        "session/inbound.py",
        """        message.answer = None
        self.deliveries[packet_id] = message
        link.pubacks.append(message)
        self.baskets.events.append(message)
""",
        """        message.answer = 0
        message.answer_properties = None
        self.deliveries[packet_id] = message
        link.pubacks.append(message)
        self._flush_pubacks(link)
        self.baskets.events.append(message)
""",
        tests=("tests/test_session_inbound.py::test_each_qos_is_answered_as_it_asks_when_the_callback_has_returned",),
    ),
    Bug(
        "a message without a callback is acknowledged at once",
        "What arrives before the application has subscribed is acknowledged and discarded.",
        "session/inbound.py",
        "        self.unmatched.append((now + self.settings.unmatched_s, message))\n",
        "        self.unmatched.append((now, message))\n",
        tests=("tests/test_session_inbound.py::test_a_message_that_nobody_wants_is_held_and_then_acknowledged_counted_and_reported",),
        played=False,
    ),
    Bug(
        "a QoS 1 message that comes again is a new one",
        "While its callback runs the connection breaks, and the callback runs a second time for the same message.",
        "session/inbound.py",
        "            if message.dup and message.topic",
        "            if not message.dup and message.topic",
        tests=("tests/test_session_inbound.py::test_a_message_under_way_is_delivered_once_and_answered_on_the_link_that_brought_it_last",),
        played=False,
    ),
    Bug(
        "a message that was refused keeps its identifier",
        "An error PUBREC ends the exchange, and the next message with its identifier is swallowed.",
        "session/inbound.py",
        "            if reason_code >= 0x80:  # [MQTT-4.3.3-9]",
        "            if reason_code > 0xFF:  # [MQTT-4.3.3-9]",
        tests=("tests/test_session_inbound.py::test_a_rejected_qos_2_message_is_over_and_its_identifier_new",),
        played=False,
    ),
)
