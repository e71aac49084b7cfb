"""TokenCake's formulas against values worked by hand from their description."""

from dataclasses import fields

import pytest

from tokencake.policies.tokencake_ledger import SHARED, Ledger
from tokencake.policies.tokencake_metadata import Metadata, ScoreLine, graph_depths
from tokencake.policies.tokencake_types import Partition, PartitionRule, TypeHistory, TypeRank
from tokencake.policies.tokencake_utility import (
    Candidate,
    PreservationRule,
    Pressure,
    TransferCost,
    longest,
    rejection,
    utility,
)
from tokencake.traces.generators.code_writer import CodeWriter

# Scores of the workload's calls: (elapsed, waited, start offset) = (0, 0, 0), (100, 10, 5), (400, 200, 23) seconds.
SCORES = {
    "architect_1": (817, 1851, 5664),
    "search_1": (916, 1956, 5725),
    "file_write_plan": (1501, 2566, 6120),
    "programmer_1_validate_patch": (1751, 2821, 6333),
    "programmer_2_validate_patch": (1571, 2641, 6153),
    "reviewer_1": (1994, 3079, 6461),
    "reviewer_2": (1859, 2944, 6326),
    "reviser_1_repair": (2215, 3310, 6607),
    "test_node": (2204, 3304, 6558),
}
QWEN_BLOCK = 16 * 196_608
RULE = PartitionRule(0.05, 0.30, 0.40, 0.75, 0.05, 0.75)
PRESERVE = PreservationRule(0.60, 0.85, 1.0, 8, 128, 0, 1.0, 0.10, 0.5, 12e9, 0.0, 3e-6, "first_fit")


@pytest.fixture(scope="module")
def declared():
    """Metadata of one Code-Writer program's calls, by name, with a start offset."""
    nodes = {node.id: node for node in next(CodeWriter().programs()).nodes}

    def of(name, offset):
        labels = nodes[name].labels
        used = {field.name for field in fields(Metadata)} & set(labels)
        return Metadata(importance=nodes[name].importance, start_offset_s=offset, **{key: labels[key] for key in used})

    return of


@pytest.mark.parametrize("name", SCORES)
def test_request_scores(declared, name):
    found = tuple(
        ScoreLine(declared(name, offset)).at(elapsed, wait)
        for elapsed, wait, offset in ((0, 0, 0), (100, 10, 5), (400, 200, 23))
    )
    assert found == SCORES[name]


def test_scores_stop_growing():
    """Elapsed time counts up to 300 s, waiting up to 180 s."""
    line = ScoreLine(Metadata(depth=2, application_max_depth=17))
    assert line.at(300, 180) == line.at(3000, 1800)
    assert line.at(299, 180) < line.at(300, 180)


@pytest.mark.parametrize(
    ("now", "usage", "ratio"),
    [(0.05, 0.75, 0.10), (0.05, 0.4, 0.05), (0.2, 0.40, 0.15), (0.2, 0.5, 0.2), (0.3, 1, 0.3)],
)
def test_the_reserved_part_follows_the_watermarks(now, usage, ratio):
    assert RULE.ratio(now, usage) == pytest.approx(ratio)


def test_partition():
    ranks = [TypeRank("a", 30, 3, 100), TypeRank("b", 20, 2, 300), TypeRank("c", 10, 1, 50), TypeRank("d", 5, 1, 50)]
    plan = RULE.divide(3049, 0.30, ranks)
    assert (plan.shared, dict(plan.reserved)) == (2135, {"a": 403, "b": 376, "c": 135})
    assert RULE.divide(3049, 0.05, ranks[:1]) == Partition(2897, {"a": 152}, {"a": 30})
    assert RULE.divide(3049, 0.05, []) == Partition(3049)


def test_type_scores():
    """A type that nobody asked for scores at least 1; importance counts twice, whoever declares it."""
    assert TypeHistory().score([], 0) == 1
    assert TypeHistory(importance=3).score([], 7) == TypeHistory(importance=7).score([], 0) == 14
    one = TypeHistory(samples=1, input_tokens=99, depth=10)
    assert one.score([], 0) == pytest.approx(0.5 * 4.605170 + 7)
    assert one.score([1.718281828] * 2, 0) == pytest.approx(0.5 * 4.605170 + 7 + 1 + 1.098612)


def test_ledger_pays_shared_first_then_own_then_donors():
    ledger = Ledger()
    ledger.plan = Partition(10, {"a": 6, "b": 4}, {"a": 2.0, "b": 1.0})
    assert ledger.available(20).pay(14, "a", ()) == [(SHARED, 10), ("a", 4)]
    assert ledger.available(20).pay(18, "a", ()) is None
    assert ledger.available(20).pay(18, "a", ("b",)) == [(SHARED, 10), ("a", 6), ("b", 2)]
    # Only 7 blocks are uncommitted: shared gives up its 10, then b (lower score) 3 of its 4.
    limited = ledger.available(7)
    assert (limited.shared, limited.reserved) == (0, {"a": 6, "b": 1})


def test_ledger_charges_growth_and_frees_what_nobody_holds():
    ledger = Ledger()
    ledger.plan = Partition(4, {"a": 3})
    ledger.admit("p/x", "p", "a", 2, 5, ledger.available(7).pay(5, "a", ()))  # 2 hits were paid for by others
    assert ledger.charged == {SHARED: 4, "a": 1}
    ledger.settle(lambda call: 2 + 5 + 3, 8)  # grows by 3: two from its reserve, one is shared's debt
    assert ledger.charged == {SHARED: 5, "a": 3}
    ledger.end("p/x")
    ledger.settle(lambda call: 0, 6)  # siblings still hold six of the eight
    assert sum(ledger.charged.values()) == 6
    ledger.settle(lambda call: 0, 0)
    assert ledger.charged == {SHARED: 0, "a": 0}


def test_a_charge_lasts_as_long_as_the_program_holds_the_blocks():
    """Two calls of p end while a third holds what they computed; then q ends, and frees its own blocks, not theirs."""
    ledger = Ledger()
    ledger.plan = Partition(0, {"a": 10, "b": 10, "c": 10})
    ledger.admit("p/1", "p", "a", 0, 4, [("a", 4)])
    ledger.admit("q/1", "q", "b", 0, 6, [("b", 6)])
    ledger.admit("p/2", "p", "c", 4, 1, [("c", 1)])
    ledger.end("q/1")
    ledger.end("p/1")
    ledger.settle(lambda call: 5, 5)
    assert ledger.charged == {"a": 4, "b": 0, "c": 1}
    ledger.end("p/2")
    ledger.settle(lambda call: 0, 0)
    assert ledger.charged == {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize(
    ("tool_s", "gb_s", "blocks"),
    [
        (0.1, 12, 62),  # a file write; its copy would have to be let go at once, so there is none
        (0.4, 12, 251),
        (0.4, 25, 517),
        (4.0, 12, 600),
    ],
)
def test_preservation_lengths(tool_s, gb_s, blocks):
    """The longest prefix whose two copies take at most a third of the tool (and leave 50 ms)."""
    cost = TransferCost(PRESERVE, QWEN_BLOCK)
    cost.d2h = cost.h2d = gb_s * 1e9
    assert longest(600, 0, tool_s, cost, 10_000) == blocks


def test_preservation_length_is_bound_by_the_tier():
    cost = TransferCost(PRESERVE, QWEN_BLOCK)
    assert longest(600, 100, 4.0, cost, 50) == 150


def candidate(**changes):
    values = {
        "blocks": 300, "new_blocks": 300, "remaining_s": 4.0, "transfer_s": 0.16, "importance": 3.0, "near": False,
        "churn": 0.0, "fits_cpu": True,
    }  # fmt: skip
    return Candidate(**values | changes)


def pressure(**changes):
    values = {
        "usage": 0.9, "free": 300, "waiting": 9, "waiting_demand": 2700, "critical_demand": 2000,
        "shared_available": 0, "fit_demand": 128, "cpu_free": 30_000,
    }  # fmt: skip
    return Pressure(**values | changes)


def test_utility():
    """6 (margin) + 1.8 (usage) + 2 (demand) + 128/300 (fit) + 1 + 1 - 0.35 * 3."""
    assert utility(candidate(), pressure()) == pytest.approx(6 + 1.8 + 2 + 128 / 300 + 1 + 1 - 1.05)
    near = utility(candidate(near=True, churn=1.5), pressure())
    assert near == pytest.approx(utility(candidate(), pressure()) - 3.5)


@pytest.mark.parametrize(
    ("c", "p", "reason"),
    [
        (candidate(), pressure(), ""),
        (candidate(), pressure(fit_demand=0), "no waiting call"),
        (candidate(fits_cpu=False), pressure(), "no room"),
        (candidate(remaining_s=0.3), pressure(), "too soon"),
        (candidate(), pressure(usage=0.5), "not short"),
        (candidate(importance=9.0, near=True), pressure(), "important"),
        (candidate(importance=9.0, near=True, remaining_s=6.0), pressure(), ""),  # an emergency: 5 s and more
        (candidate(importance=7.9, remaining_s=0.5, near=True, churn=4.0), pressure(usage=0.6), "utility"),
    ],
)
def test_rejections(c, p, reason):
    found = rejection(c, p, PRESERVE)
    assert (reason in found) if reason else not found


def test_depths_count_tools(program, turn):
    class Graph:
        nodes = ("a", "t", "b", "c")

        def predecessors(self, node):
            return {"t": ("a",), "b": ("t",), "c": ("a", "b")}.get(node, ())

        def successors(self, node):
            return {"a": ("t", "c"), "t": ("b",), "b": ("c",)}.get(node, ())

    assert graph_depths(Graph()) == ({"a": 1, "t": 2, "b": 3, "c": 4}, {"a": 3, "t": 2, "b": 1, "c": 0})
