"""What dispatch costs: ``TopicTree.match`` with 1 to 10,000 filters, and building such a tree.

Run: ``PYTHONPATH=src python bench/topics.py``. Each figure is the best of several runs, in nanoseconds per call unless it says otherwise.
The cost of a match should stay flat while filters are added, from the cache (a dict look-up) and without it (a walk down the tree).
"""

from __future__ import annotations

import platform
from time import perf_counter_ns
from typing import TYPE_CHECKING

from ohmqtt.topic import TopicTree, matches, validate_topic_filter, validate_topic_name
from ohmqtt.topic_alias import AliasPolicy, OutboundAliases

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (1, 10, 100, 1_000, 10_000)
REPEATS = 7


def best_ns(action: Callable[[], object], calls: int) -> float:
    """Return the nanoseconds per call of the quickest run; ``action`` makes ``calls`` calls."""
    runs: list[int] = []
    for _ in range(REPEATS):
        start = perf_counter_ns()
        action()
        runs.append(perf_counter_ns() - start)
    return min(runs) / calls


def exact(number: int) -> str:
    """Return one filter of many without wildcards."""
    return f"site/{number % 100}/device/{number}/state"


def mixed(number: int) -> str:
    """Return one filter of many, a third of them with ``+``, a third with ``#``; no topic matches more than three of a hundred."""
    return (exact(number), f"site/{number % 100}/device/{number}/+", f"site/{number % 100}/device/{number}/#")[number % 3]


def measure_match(name: str, make: Callable[[int], str]) -> None:
    """Print the cost of a match for growing trees."""
    print(f"\n{name:<24}{'cache.get':>12}{'match, cached':>16}{'match, walked':>16}{'no such topic':>16}")
    for size in SIZES:
        tree: TopicTree[int] = TopicTree((make(number), number) for number in range(size))
        topics = [exact(number) for number in range(0, size, max(1, size // 1_000))]
        topics *= 1_000 // len(topics)
        strangers = [f"site/{number % 100}/other/{number}/state" for number in range(1_000)]
        assert all(len(tree.match(topic)) == 1 for topic in topics)

        def look_up(tree: TopicTree[int] = tree, topics: list[str] = topics) -> None:
            get = tree.cache.get
            for topic in topics:
                get(topic)

        def match(tree: TopicTree[int] = tree, topics: list[str] = topics) -> None:
            for topic in topics:
                tree.match(topic)

        def walk(tree: TopicTree[int] = tree, topics: list[str] = topics) -> None:
            forget = tree.cache.clear
            for topic in topics:
                forget()
                tree.match(topic)

        looked_up, cached, walked = (best_ns(action, len(topics)) for action in (look_up, match, walk))
        topics[:] = strangers
        unmatched = best_ns(walk, len(topics))
        print(f"{size:>14,} filters {looked_up:>12.0f}{cached:>16.0f}{walked:>16.0f}{unmatched:>16.0f}")


def measure_changes(name: str, make: Callable[[int], str]) -> None:
    """Print what it takes to fill and empty a tree, and to find the overlaps of each new filter."""
    filters = [make(number) for number in range(10_000)]

    def insert() -> TopicTree[int]:
        tree: TopicTree[int] = TopicTree()
        for topic_filter in filters:
            tree[topic_filter] = 1
        return tree

    def insert_and_remove() -> None:
        tree = insert()
        for topic_filter in filters:
            del tree[topic_filter]

    tree = insert()

    def find_overlapping() -> None:
        for topic_filter in filters:
            tree.overlapping(topic_filter)

    inserted = best_ns(insert, 1)
    removed = best_ns(insert_and_remove, 1) - inserted
    overlapping = best_ns(find_overlapping, len(filters))
    print(f"{name:<24}{inserted / 1e6:>12.1f} ms{removed / 1e6:>13.1f} ms{overlapping:>16.0f}")


def measure_small_things() -> None:
    """Print what validation, the reference matcher and topic aliases cost."""
    topic, topic_filter = exact(5), mixed(4)
    aliases = OutboundAliases(10)
    few = [f"t/{number}" for number in range(10)] * 100
    many = [f"t/{number}" for number in range(1_000)]

    def assign(topics: list[str]) -> None:
        for topic in topics:
            aliases.assign(topic, AliasPolicy.TRY)

    def times(action: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(1_000):
                action()

        return run

    print()
    for name, figure in (
        ("validate_topic_name", best_ns(times(lambda: validate_topic_name(topic)), 1_000)),
        ("validate_topic_filter", best_ns(times(lambda: validate_topic_filter(topic_filter)), 1_000)),
        ("matches (reference)", best_ns(times(lambda: matches(topic_filter, topic)), 1_000)),
        ("alias of a busy topic", best_ns(lambda: assign(few), 1_000)),
        ("no alias left", best_ns(lambda: assign(many), 1_000)),
    ):
        print(f"{name:<24}{figure:>12.0f}")


def main() -> None:
    """Print all figures."""
    print(f"{platform.python_implementation()} {platform.python_version()}; ns per call, best of {REPEATS}")
    measure_match("exact filters", exact)
    measure_match("mixed filters", mixed)
    print(f"\n{'10,000 filters':<24}{'insert':>15}{'remove':>16}{'overlapping':>16}")
    measure_changes("exact filters", exact)
    measure_changes("mixed filters", mixed)
    measure_small_things()


if __name__ == "__main__":
    main()
