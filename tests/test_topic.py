"""Topic names, filters, the reference matcher, and the tree that must agree with it."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ohmqtt.topic as topic_module
from ohmqtt.errors import ArgumentError
from ohmqtt.topic import TopicTree, is_shared, matches, matching_part, overlaps, validate_topic_filter, validate_topic_name

if TYPE_CHECKING:
    from collections.abc import Callable

# ---------------------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    "topic", ["a", "/", "//", "a/b", " ", "$SYS/x", "ünï/çødé", "\ufefftopic", "a" * 65_535, "é" * 32_767, "\U0001f600/x"]
)
def test_valid_names_are_returned_as_utf8(topic: str) -> None:
    assert validate_topic_name(topic) == topic.encode()


@pytest.mark.spec("MQTT-1.5.4-3")
def test_a_byte_order_mark_is_an_ordinary_character() -> None:
    assert validate_topic_name("\ufefftopic") == b"\xef\xbb\xbftopic"
    assert validate_topic_filter("\ufefftopic") == b"\xef\xbb\xbftopic"
    assert not matches("topic", "\ufefftopic")


@pytest.mark.spec("MQTT-3.3.2-2", "MQTT-4.7.0-1")
@pytest.mark.parametrize("topic", ["+", "#", "a/+", "a/#", "a+", "#a", "+/b"])
def test_names_with_wildcards_are_refused(topic: str) -> None:
    with pytest.raises(ArgumentError, match=r"topic name '.*': the wildcards"):
        validate_topic_name(topic)


@pytest.mark.spec("MQTT-4.7.3-1")
@pytest.mark.parametrize("validate", [validate_topic_name, validate_topic_filter])
def test_the_empty_text_is_refused(validate: Callable[[str], bytes]) -> None:
    with pytest.raises(ArgumentError, match="is empty: it must have at least one character"):
        validate("")


@pytest.mark.spec("MQTT-4.7.3-2")
@pytest.mark.parametrize("validate", [validate_topic_name, validate_topic_filter])
def test_null_characters_are_refused(validate: Callable[[str], bytes]) -> None:
    with pytest.raises(ArgumentError, match=r"'a\\x00b' contains U\+0000"):
        validate("a\0b")


@pytest.mark.spec("MQTT-1.5.4-1", "MQTT-3.8.3-1")
@pytest.mark.parametrize("validate", [validate_topic_name, validate_topic_filter])
def test_lone_surrogates_are_refused(validate: Callable[[str], bytes]) -> None:
    with pytest.raises(ArgumentError, match="lone surrogate") as caught:
        validate("a/\ud800")
    assert isinstance(caught.value.__cause__, UnicodeEncodeError)
    str(caught.value).encode()  # The message itself can be written anywhere.


@pytest.mark.spec("MQTT-4.7.3-3")
@pytest.mark.parametrize("validate", [validate_topic_name, validate_topic_filter])
@pytest.mark.parametrize(("longest", "too_long"), [("a" * 65_535, "a" * 65_536), ("é" * 32_767 + "a", "é" * 32_768)])
def test_the_limit_of_65535_counts_bytes_not_characters(validate: Callable[[str], bytes], longest: str, too_long: str) -> None:
    assert len(validate(longest)) == 65_535
    with pytest.raises(ArgumentError, match="65,536 bytes of UTF-8; the limit is 65,535") as caught:
        validate(too_long)
    assert len(str(caught.value)) < 600  # Long texts are shortened in messages.


@pytest.mark.parametrize("value", [b"a", None, 1])
def test_what_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(ArgumentError, match=rf"topic name must be a str, not {type(value).__name__}"):
        validate_topic_name(value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match=rf"topic filter must be a str, not {type(value).__name__}"):
        validate_topic_filter(value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "topic_filter",
    [
        "a",
        "/",
        "#",
        "+",
        "/#",
        "+/#",
        "a/#",
        "+/+",
        "a/+/b",
        "+/a",
        "$SYS/#",
        "$SYS/+/x",
        "$share",
        "$shared/g",
        "$share/g/a",
        "$share/g//",
    ],
)
def test_valid_filters_are_returned_as_utf8(topic_filter: str) -> None:
    assert validate_topic_filter(topic_filter) == topic_filter.encode()


@pytest.mark.spec("MQTT-4.7.1-1")
@pytest.mark.parametrize(
    "topic_filter", ["a#", "a/#/b", "#/a", "a/b#", "##", "#/", "a/##", "/#/", "#a", "+#", "$share/g/a#", "$share/g/#/a"]
)
def test_a_multi_level_wildcard_stands_only_last_and_alone(topic_filter: str) -> None:
    with pytest.raises(ArgumentError, match="'#' must be the last character, alone or after '/'"):
        validate_topic_filter(topic_filter)


@pytest.mark.spec("MQTT-4.7.1-2")
@pytest.mark.parametrize("topic_filter", ["a+", "+a", "++", "a/b+", "+a/b", "a/+b/#", "$share/g/a+"])
def test_a_single_level_wildcard_fills_a_level(topic_filter: str) -> None:
    with pytest.raises(ArgumentError, match=r"'\+' must fill a whole level"):
        validate_topic_filter(topic_filter)


@pytest.mark.spec("MQTT-4.8.2-1")
@pytest.mark.parametrize("topic_filter", ["$share/", "$share//", "$share//t"])
def test_a_share_name_has_a_character(topic_filter: str) -> None:
    with pytest.raises(ArgumentError, match="the share name is empty"):
        validate_topic_filter(topic_filter)


@pytest.mark.spec("MQTT-4.8.2-2")
@pytest.mark.parametrize("topic_filter", ["$share/+/t", "$share/#", "$share/#/t", "$share/a+/t", "$share/a#b/t"])
def test_a_share_name_has_no_wildcard(topic_filter: str) -> None:
    with pytest.raises(ArgumentError, match=r"the share name must not contain '\+' or '#'"):
        validate_topic_filter(topic_filter)


@pytest.mark.spec("MQTT-4.8.2-2")
@pytest.mark.parametrize("topic_filter", ["$share/g", "$share/g/"])
def test_a_share_name_is_followed_by_a_filter(topic_filter: str) -> None:
    with pytest.raises(ArgumentError, match="no filter after the share name"):
        validate_topic_filter(topic_filter)


def test_the_matching_part_leaves_the_share_name_out() -> None:
    assert [matching_part(text) for text in ("a/b", "$share/g/a/b", "$share/g/#", "$share/g//", "$share")] == [
        "a/b",
        "a/b",
        "#",
        "/",
        "$share",
    ]
    assert [is_shared(text) for text in ("a/b", "$share/g/a", "$share", "$shared/g/a", "a/$share/")] == [False, True, False, False, False]


# ------------------------------------------------------------------------------------------------------------------ matching

MATCHING = [
    ("sport/tennis/player1/#", "sport/tennis/player1"),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
    ("sport/#", "sport"),
    ("#", "/"),
    ("sport/tennis/+", "sport/tennis/player1"),
    ("sport/+", "sport/"),
    ("+/+", "/finance"),
    ("/+", "/finance"),
    ("+/tennis/#", "sport/tennis"),
    ("$SYS/#", "$SYS/broker"),
    ("$SYS/monitor/+", "$SYS/monitor/Clients"),
    ("a/+", "a/$b"),
    ("$share/g/a/+", "a/b"),
    ("$share/g/$SYS/#", "$SYS"),
]
NOT_MATCHING = [
    ("sport/tennis/+", "sport/tennis/player1/ranking"),
    ("sport/+", "sport"),
    ("+", "/finance"),
    ("sport/tennis/player1/#", "sport/tennis/player"),
    ("a/+/#", "a"),
    ("$share/g/a", "$share/g/a"),
]


@pytest.mark.parametrize(("topic_filter", "topic"), MATCHING)
def test_filters_that_match(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic)
    assert TopicTree([(topic_filter, 1)]).match(topic) == (1,)


@pytest.mark.parametrize(("topic_filter", "topic"), NOT_MATCHING)
def test_filters_that_do_not_match(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)
    assert TopicTree([(topic_filter, 1)]).match(topic) == ()


@pytest.mark.spec("MQTT-4.7.2-1")
@pytest.mark.parametrize("topic_filter", ["#", "+", "+/#", "+/x", "$share/g/#", "$share/g/+/x"])
@pytest.mark.parametrize("topic", ["$SYS", "$SYS/x", "$"])
def test_filters_that_begin_with_a_wildcard_match_no_dollar_topics(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)
    assert TopicTree([(topic_filter, 1)]).match(topic) == ()


@pytest.mark.spec("MQTT-4.7.3-4")
@pytest.mark.parametrize(
    ("topic_filter", "topic"), [("a", "A"), ("caf\u00e9", "cafe\u0301"), ("a", "a/"), ("a", "/a"), ("a", " a"), ("a/b", "a//b")]
)
def test_nothing_is_normalised(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)
    assert TopicTree([(topic_filter, 1)]).match(topic) == ()


def pattern_of(topic_filter: str) -> re.Pattern[str]:
    """An independent second opinion: the rules of section 4.7 as a regular expression."""
    part = re.sub(r"\A\$share/[^/]*/", "", topic_filter)
    first = r"(?!\$)" if part[0] in "+#" else ""
    if part == "#":
        return re.compile(first + ".*", re.DOTALL)
    tail = ""
    if part.endswith("/#"):
        part, tail = part[:-2], "(?:/.*)?"
    levels = ["[^/]*" if level == "+" else re.escape(level) for level in part.split("/")]
    return re.compile(first + "/".join(levels) + tail, re.DOTALL)


def worlds(levels: tuple[str, ...], depth: int) -> list[str]:
    """All non-empty texts of up to ``depth`` levels."""
    texts = ["/".join(combination) for count in range(1, depth + 1) for combination in itertools.product(levels, repeat=count)]
    return [text for text in texts if text]


SMALL_NAMES = worlds(("", "a", "$b", "c"), 4)
SMALL_FILTERS = ["#", "/#", *worlds(("", "a", "$b", "+"), 3), *[text + "/#" for text in worlds(("", "a", "$b", "+"), 2)]]


def test_matches_agrees_with_a_regular_expression_in_a_small_world() -> None:
    for topic_filter in SMALL_FILTERS:
        pattern = pattern_of(topic_filter)
        for topic in SMALL_NAMES:
            assert matches(topic_filter, topic) == bool(pattern.fullmatch(topic)), (topic_filter, topic)


def test_overlaps_is_exact_in_a_small_world() -> None:
    # Names have one level more than the longest filter, and a level ("c") that no filter spells: whatever overlaps at all does so here.
    matched = {topic_filter: {topic for topic in SMALL_NAMES if matches(topic_filter, topic)} for topic_filter in SMALL_FILTERS}
    for filter_a, filter_b in itertools.product(SMALL_FILTERS, repeat=2):
        assert overlaps(filter_a, filter_b) == bool(matched[filter_a] & matched[filter_b]), (filter_a, filter_b)


def test_the_tree_finds_exactly_the_overlapping_filters_in_a_small_world() -> None:
    tree = TopicTree((topic_filter, index) for index, topic_filter in enumerate(SMALL_FILTERS))
    for topic_filter in SMALL_FILTERS:
        assert tree.overlapping(topic_filter) == [stored for stored, _ in tree if overlaps(topic_filter, stored)], topic_filter


def test_share_names_do_not_count_for_overlaps() -> None:
    assert overlaps("$share/g/a/+", "a/b")
    assert overlaps("a/b", "$share/g/a/b")
    assert not overlaps("$share/g/a", "$share/g/b")
    tree: TopicTree[int] = TopicTree([("$share/g/a/+", 1), ("a/b", 2), ("$share/h/b", 3)])
    assert tree.overlapping("$share/x/a/b") == ["$share/g/a/+", "a/b"]
    assert tree.overlapping("$share/x/+") == ["$share/h/b"]
    assert tree.overlapping("unknown/b") == []


# ------------------------------------------------------------------------------------------------------------------ the tree


def test_a_tree_is_a_mapping_of_filters() -> None:
    tree: TopicTree[str] = TopicTree()
    assert len(tree) == 0
    tree["a/+"] = "one"
    tree["$share/g/a/b"] = "two"
    tree["a/b"] = "three"
    assert len(tree) == 3
    assert "a/b" in tree
    assert "a" not in tree
    assert tree.get("a/b") == "three"
    assert tree.get("a") is None
    assert list(tree) == [("a/+", "one"), ("$share/g/a/b", "two"), ("a/b", "three")]
    assert repr(tree) == "TopicTree([('a/+', 'one'), ('$share/g/a/b', 'two'), ('a/b', 'three')])"
    del tree["$share/g/a/b"]
    assert list(tree) == [("a/+", "one"), ("a/b", "three")]
    with pytest.raises(KeyError, match="a/c"):
        del tree["a/c"]
    tree.clear()
    assert list(tree) == []
    assert tree.match("a/b") == ()


def test_a_tree_refuses_invalid_filters_and_stays_as_it_was() -> None:
    tree: TopicTree[int] = TopicTree([("a", 1)])
    with pytest.raises(ArgumentError):
        tree["a/#/b"] = 2
    assert list(tree) == [("a", 1)]
    assert tree == TopicTree([("a", 1)])


def test_values_come_oldest_filter_first_and_a_new_value_keeps_its_place() -> None:
    tree: TopicTree[int] = TopicTree([("#", 1), ("a/b", 2), ("+/b", 3), ("$share/g/a/b", 4), ("a/#", 5), ("a/b/#", 6)])
    assert tree.match("a/b") == (1, 2, 3, 4, 5, 6)
    tree["#"] = 7
    assert tree.match("a/b") == (7, 2, 3, 4, 5, 6)
    del tree["#"]
    tree["#"] = 8
    assert tree.match("a/b") == (2, 3, 4, 5, 6, 8)


@pytest.mark.spec("MQTT-4.8.2-3")
def test_shared_and_unshared_filters_stand_side_by_side() -> None:
    tree: TopicTree[int] = TopicTree([("a/b", 1), ("$share/g/a/b", 2), ("$share/h/a/b", 3), ("$share/g/#", 4)])
    assert tree.match("a/b") == (1, 2, 3, 4)
    del tree["$share/g/a/b"]
    assert tree.match("a/b") == (1, 3, 4)
    del tree["a/b"]
    assert tree.match("a/b") == (3, 4)


def test_removed_filters_leave_no_nodes_behind() -> None:
    filters = ["a/b/c", "a/+/c", "a/b/#", "#", "+", "a", "$share/g/a/b/c", "/" * 50]
    tree = TopicTree((topic_filter, 0) for topic_filter in filters)
    for topic_filter in filters:
        del tree[topic_filter]
    root = tree._root
    assert (root.children, root.plus, root.entries, root.hash_entries) == ({}, None, (), ())


@pytest.mark.parametrize("kept", ["a", "a/#", "a/c", "a/+"])
def test_removing_a_branch_keeps_what_stands_on_its_way(kept: str) -> None:
    tree: TopicTree[int] = TopicTree([(kept, 1), ("a/b/c", 2)])
    del tree["a/b/c"]
    assert [tree.match(topic) for topic in ("a", "a/c")] == [(1,) if matches(kept, topic) else () for topic in ("a", "a/c")]


def test_results_are_cached_until_a_change_touches_them() -> None:
    tree: TopicTree[int] = TopicTree([("a/+", 1)])
    cache = tree.cache
    assert tree.match("a/b") == (1,)
    assert tree.match("a/c") == (1,)
    assert cache == {"a/b": (1,), "a/c": (1,)}
    assert tree.match("a/b") is cache["a/b"]
    tree["a/b"] = 2  # An exact filter concerns only its own topic.
    assert cache == {"a/c": (1,)}
    assert tree.match("a/b") == (1, 2)
    tree["+/b"] = 3
    assert cache == {}
    assert tree.match("a/b") == (1, 2, 3)
    del tree["a/b"]
    assert tree.match("a/b") == (1, 3)
    del tree["+/b"]
    assert tree.match("a/b") == (1,)
    tree["$share/g/a/b"] = 4
    assert tree.match("a/b") == (1, 4)
    tree["$share/g/a/b"] = 5
    assert tree.match("a/b") == (1, 5)
    tree["a/+"] = 6
    assert tree.match("a/b") == (6, 5)
    tree.clear()
    assert tree.cache is cache
    assert tree.match("a/b") == ()
    tree["#"] = 7
    assert tree.match("a/b") == (7,)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_module, "CACHE_TOPICS_MAX", 3)
    tree: TopicTree[int] = TopicTree([("#", 1)])
    for number in range(10):
        assert tree.match(f"t/{number}") == (1,)
        assert len(tree.cache) <= 3
    long_topic = "x" * (topic_module.CACHE_TOPIC_CHARACTERS_MAX + 1)
    assert tree.match(long_topic) == (1,)
    assert long_topic not in tree.cache


def test_long_results_are_not_cached() -> None:
    tree = TopicTree((f"$share/g{number}/a", number) for number in range(topic_module.CACHE_VALUES_MAX + 1))
    assert tree.match("a") == tuple(range(topic_module.CACHE_VALUES_MAX + 1))
    assert "a" not in tree.cache
    del tree["$share/g0/a"]
    assert tree.match("a") == tuple(range(1, topic_module.CACHE_VALUES_MAX + 1))
    assert "a" in tree.cache


@pytest.mark.slow
def test_the_deepest_filters_and_names_need_no_recursion() -> None:
    deepest = "/" * 65_535
    wild = "+" + "/+" * 32_766 + "/#"
    tree: TopicTree[int] = TopicTree([(deepest, 1), (wild, 2)])
    assert tree.match(deepest) == (1, 2)
    assert matches(wild, deepest)
    assert tree.overlapping(deepest) == [deepest, wild]
    assert tree.overlapping("#") == [deepest, wild]
    twin = pickle.loads(pickle.dumps(copy.deepcopy(tree)))
    assert twin == tree
    del tree[deepest]
    del tree[wild]
    assert tree.match(deepest) == ()


def test_trees_are_compared_and_copied_by_their_content() -> None:
    tree = TopicTree([("a", [1]), ("b", [2])])
    shallow, deep = copy.copy(tree), copy.deepcopy(tree)
    assert shallow == tree == deep
    assert shallow.get("a") is tree.get("a")
    assert deep.get("a") is not tree.get("a")
    deep["c"] = [3]
    assert deep != tree
    assert TopicTree([("b", [2]), ("a", [1])]) != tree
    assert tree != {"a": [1]}
    with pytest.raises(TypeError, match="unhashable"):
        hash(tree)


def test_a_tree_may_change_while_it_is_iterated() -> None:
    tree: TopicTree[int] = TopicTree([("a", 1), ("b", 2)])
    for topic_filter, _ in tree:
        del tree[topic_filter]
    assert len(tree) == 0


# --------------------------------------------------------------------------------------------------------------- properties

# Derandomized: the same examples each time. Few different levels, so that filters and names meet often; some text from all of Unicode, so that nothing depends on the alphabet.
LEVELS = st.sampled_from(["", "a", "b", "$c", "ab"]) | st.text(
    st.characters(exclude_characters="/+#\0", exclude_categories=["Cs"]), max_size=3
)
NAMES = st.lists(LEVELS, min_size=1, max_size=5).map("/".join).filter(bool)
PLAIN_FILTERS = (
    st.tuples(st.lists(LEVELS | st.just("+"), max_size=4), st.booleans())
    .map(lambda drawn: "/".join([*drawn[0], "#"] if drawn[1] else drawn[0]))
    .filter(lambda text: bool(text) and not text.startswith("$share/"))
)
FILTERS = PLAIN_FILTERS | st.tuples(st.sampled_from(["g", "h"]), PLAIN_FILTERS).map("/".join).map("$share/".__add__)
CHANGES = st.lists(st.tuples(st.booleans(), FILTERS, st.lists(NAMES, max_size=3)), max_size=12)

derandomized = settings(derandomize=True, deadline=None, database=None, max_examples=150)


@pytest.mark.slow
@derandomized
@given(NAMES)
def test_all_generated_names_are_valid_and_match_themselves(topic: str) -> None:
    assert validate_topic_name(topic) == topic.encode()
    assert matches(topic, topic) or topic.startswith("$share/")


@pytest.mark.slow
@derandomized
@given(FILTERS, NAMES)
def test_matches_agrees_with_a_regular_expression(topic_filter: str, topic: str) -> None:
    validate_topic_filter(topic_filter)
    assert matches(topic_filter, topic) == bool(pattern_of(topic_filter).fullmatch(topic))


@pytest.mark.slow
@derandomized
@given(CHANGES)
def test_the_tree_agrees_with_the_reference_through_all_changes(changes: list[tuple[bool, str, list[str]]]) -> None:
    tree: TopicTree[int] = TopicTree()
    model: dict[str, int] = {}
    asked: list[str] = []
    for number, (insert, topic_filter, topics) in enumerate(changes):
        if insert or not model:
            tree[topic_filter] = model[topic_filter] = number
        else:
            victim = next(iter(model))
            del tree[victim]
            del model[victim]
        asked += topics
        for topic in asked:  # Also those asked before the change: the cache must not tell old news.
            expected = tuple(value for stored, value in model.items() if matches(stored, topic))
            assert tree.match(topic) == expected
        assert tree.overlapping(topic_filter) == [stored for stored in model if overlaps(stored, topic_filter)]
    assert list(tree) == list(model.items())


@pytest.mark.slow
@derandomized
@given(FILTERS, FILTERS, NAMES)
def test_filters_that_match_one_name_overlap(filter_a: str, filter_b: str, topic: str) -> None:
    assert overlaps(filter_a, filter_b) == overlaps(filter_b, filter_a)
    if matches(filter_a, topic) and matches(filter_b, topic):
        assert overlaps(filter_a, filter_b)


def test_the_public_names_are_these() -> None:
    assert set(topic_module.__all__) == {
        "TopicTree", "is_shared", "matches", "matching_part", "overlaps", "validate_topic_filter", "validate_topic_name",
    }  # fmt: skip
