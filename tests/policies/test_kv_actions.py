"""KEEP, DROP, OFFLOAD, PREFETCH, HOLD, CANCEL and what they cost and save, by hand.

A first call of 16 prompt and 2 output tokens has four full blocks; a tool runs; the second call
continues the first. In between, ``flood`` may overwrite the whole GPU.
"""

from dataclasses import replace

import pytest

from tokencake.policies.api import Cancel, Drop, Hold, Keep, Offload, Preempt, Prefetch, Release, Timer, Unpin
from tokencake.traces.schema import Piece


@pytest.fixture
def flood(program, call):
    """A call that takes all twenty blocks, from 50 ms on."""
    return program("flood", call("flood", 79), at_s=0.05)


@pytest.fixture
def second(row):
    """What the continuing call found."""
    return lambda result: {
        key: row(result.calls, "second")[key] for key in ("gpu_hit_tokens", "cpu_hit_tokens", "admitted_s")
    }


def rows(table):
    return list(zip(*table.columns.values(), strict=True))


def moves(result):
    columns = result.transfers.columns
    return list(zip(columns["cause"], columns["blocks"], columns["status"], strict=True))


def test_released_kv_is_found_unless_it_is_overwritten(play, program, turn, flood, second, scripted):
    alone = play([program("p", *turn(16))], scripted())
    assert second(alone)["gpu_hit_tokens"] == 16
    assert second(play([program("p", *turn(16)), flood], scripted()))["gpu_hit_tokens"] == 0


@pytest.fixture
def waves(program, call):
    """Two calls of sixteen blocks each, at 50 and 60 ms: together they overwrite what nobody keeps."""
    return [program(f"wave{at}", call(f"wave{at}", 63), at_s=at / 1000) for at in (50, 60)]


def test_keep_survives_what_release_does_not(play, program, turn, waves, second, scripted):
    programs = [program("p", *turn(16)), *waves]
    assert second(play(programs, scripted()))["gpu_hit_tokens"] == 0
    policy = scripted({("STALL", "first"): (Keep(),)})
    result = play(programs, policy)
    assert second(result)["gpu_hit_tokens"] == 16
    assert result.summary["stalled_kv_gb_s"] == pytest.approx(4 * 4000 * 0.1 / 1e9)
    assert policy.refusals() == []


@pytest.mark.parametrize(("until_s", "found", "expired"), [(0.04, 0, 1), (0.06, 16, 1), (0.102, 16, 1), (0.2, 16, 0)])
def test_keep_until_a_time(play, program, turn, waves, second, scripted, until_s, found, expired):
    """The tool ends at 102 ms. A pin that ends makes its blocks the most recently released ones."""
    policy = scripted({("STALL", "first"): (Keep(until_s),)})
    result = play([program("p", *turn(16)), *waves], policy)
    assert second(result)["gpu_hit_tokens"] == found
    assert result.summary["events"].get("pin_expired", 0) == expired


def test_keep_of_leading_blocks(play, program, turn, call, second, scripted):
    """Two of four blocks are kept; eighteen others are overwritten."""
    policy = scripted({("STALL", "first"): (Keep(blocks=2),)})
    eighteen = program("flood", call("flood", 71), at_s=0.05)
    assert second(play([program("p", *turn(16)), eighteen], policy))["gpu_hit_tokens"] == 8


def test_an_offload_holds_all_that_it_reads_also_where_less_was_kept(play, program, turn, call, row, scripted):
    """Two of four blocks are kept; while all four are copied (16 ms), eighteen are not free."""
    script = {("STALL", "first"): (Keep(blocks=2), Timer(0.03)), ("TIMER", ""): (Offload(call="p/first"),)}
    flood = program("flood", call("flood", 71), at_s=0.035)
    result = play([program("p", *turn(16)), flood], scripted(script))
    assert moves(result)[0] == ("offload", 4, "done")
    assert row(result.calls, "flood")["admitted_s"] == pytest.approx(0.03 + 0.016)


def test_what_was_dropped_cannot_be_offloaded(play, program, turn, scripted):
    policy = scripted({("STALL", "first"): (Drop(), Offload())})
    result = play([program("p", *turn(16))], policy)
    assert policy.refusals() == [("Offload", "no block of the chain is on the GPU")]
    assert moves(result) == []


def test_all_memory_pinned_and_nothing_runnable(play, program, turn, call, row, scripted):
    """Three programs keep their KV, a fourth needs room: exactly one pin is lifted, that of the latest return."""
    policy = scripted({("STALL", "first"): (Keep(),)})
    programs = [
        program("soon", *turn(16, tool_s=5.0, estimate_s=5.0)),
        program("late", *(_renamed(turn(16, tool_s=9.0, estimate_s=9.0), "x")), at_s=0.01),
        program("mid", *(_renamed(turn(16, tool_s=7.0, estimate_s=7.0), "y")), at_s=0.02),
        program("new", call("new", 40), at_s=0.5),
    ]
    result = play(programs, policy)
    lifted = [event.call for event in policy.events if event.kind.name == "PIN_LIFTED"]
    assert lifted == ["late/first"]
    assert result.summary["events"]["pin_lifted"] == 1
    assert row(result.calls, "new")["admitted_s"] == pytest.approx(0.5)


def _renamed(nodes, content):
    first, tool, last = nodes
    return replace(first, prompt=(Piece(content, 16),)), tool, last


def test_drop(play, program, turn, second, scripted):
    assert second(play([program("p", *turn(16))], scripted({("STALL", "first"): (Drop(),)})))["gpu_hit_tokens"] == 0


def test_offload_then_load_on_hit(play, program, turn, flood, second, scripted):
    """Four blocks go out in 16 ms and come back when they are asked for."""
    policy = scripted({("STALL", "first"): (Offload(),)})
    result = play([program("p", *turn(16)), flood], policy)
    assert moves(result) == [("offload", 4, "done"), ("load", 4, "done")]
    found = second(result)
    assert (found["gpu_hit_tokens"], found["cpu_hit_tokens"]) == (0, 16)
    assert "TRANSFER_DONE" in policy.kinds()


def test_offload_of_leading_blocks(play, program, turn, flood, second, scripted):
    result = play([program("p", *turn(16)), flood], scripted({("STALL", "first"): (Offload(3),)}))
    assert second(result)["cpu_hit_tokens"] == 12
    assert result.summary["d2h_bytes"] == 3 * 4000


def test_offload_in_flight_when_the_tool_returns(play, program, turn, second, scripted):
    """The copy takes 16 ms, the tool 5: the GPU blocks are still held, so the call hits them; nothing is loaded."""
    policy = scripted({("STALL", "first"): (Offload(),)})
    result = play([program("p", *turn(16, tool_s=0.005))], policy)
    found = second(result)
    assert (found["gpu_hit_tokens"], found["cpu_hit_tokens"]) == (16, 0)
    assert found["admitted_s"] == pytest.approx(0.007)
    assert moves(result) == [("offload", 4, "done")]
    most = max(running + stalled for running, stalled in zip(*(result.kv.columns[c] for c in KV), strict=True))
    assert most <= 7  # the second call's 26 tokens; the four shared blocks count once


KV = ("running_blocks", "stalled_blocks")


def test_cancel_an_offload(play, program, turn, flood, second, scripted):
    """Cancelled at the return: its CPU blocks are given up, its GPU blocks are found."""
    policy = scripted({("STALL", "first"): (Offload(),), ("RETURN", "first"): (Cancel(),)})
    result = play([program("p", *turn(16, tool_s=0.005))], policy)
    assert moves(result) == [("offload", 4, "cancelled")]
    assert result.summary["d2h_bytes"] == 0
    assert second(result)["gpu_hit_tokens"] == 16


def test_prefetch_makes_an_ordinary_hit(play, program, turn, flood, second, call, scripted):
    """Offloaded, overwritten, and brought back at 70 ms by a timer: no wait when the tool returns."""
    policy = scripted(
        {
            ("STALL", "first"): (Offload(), Timer(0.07)),
            ("TIMER", ""): lambda view, subject: (Prefetch(call="p/first"),),
        }
    )
    result = play([program("p", *turn(16)), flood], policy)
    assert moves(result) == [("offload", 4, "done"), ("prefetch", 4, "done")]
    found = second(result)
    assert (found["gpu_hit_tokens"], found["cpu_hit_tokens"]) == (16, 0)
    assert found["admitted_s"] == pytest.approx(0.102)


def test_hold_keeps_room_for_a_prefetch(play, program, turn, flood, call, second, scripted):
    """A crowd at 60 ms takes every free block; four held blocks still take the prefetch at 70 ms."""

    def timer(view, subject):
        return (Hold(4, "p/first"),) if view.now < 0.06 else (Prefetch(call="p/first"),)

    policy = scripted({("STALL", "first"): (Offload(), Timer(0.055), Timer(0.07)), ("TIMER", ""): timer})
    crowd = program("crowd", call("crowd", 60, 4), at_s=0.06)
    slow = program("slow", call("slow", 30, 20), at_s=0.0601)
    result = play([program("p", *turn(16)), flood, crowd, slow], policy)
    assert ("prefetch", 4, "done") in moves(result)
    assert policy.refusals() == []
    assert second(result)["gpu_hit_tokens"] == 16


def test_a_prefetch_without_room_is_refused(play, program, turn, flood, call, scripted):
    policy = scripted(
        {("STALL", "first"): (Offload(), Timer(0.07)), ("TIMER", ""): lambda v, s: (Prefetch(call="p/first"),)}
    )
    crowd = program("crowd", call("crowd", 60, 18), at_s=0.06)
    play([program("p", *turn(16)), flood, crowd], policy)
    assert policy.refusals() == [("Prefetch", "4 blocks are needed, 2 are free")]


def test_prefetch_of_a_program_that_does_not_return(play, program, turn, flood, call, row, scripted):
    """Its tool takes a thousand seconds; under pressure the prefetched blocks are taken back."""
    policy = scripted(
        {("STALL", "first"): (Offload(), Timer(0.07)), ("TIMER", ""): lambda v, s: (Prefetch(call="p/first"),)}
    )
    needy = program("needy", call("needy", 79), at_s=0.2)
    result = play([program("p", *turn(16, tool_s=1000.0)), flood, needy], policy)
    assert ("prefetch", 4, "done") in moves(result)
    assert row(result.calls, "needy")["admitted_s"] == pytest.approx(0.2)
    assert result.summary["events"]["pin_lifted"] == 1
    assert row(result.calls, "second")["cpu_hit_tokens"] == 16


def test_preempt(play, program, call, row, scripted):
    """Preempted when another call arrives; it hits what it had computed."""
    policy = scripted({("QUEUED", "b"): (Preempt("p/a"),)})
    result = play([program("p", call("a", 16, 10)), program("q", call("b", 4), at_s=0.0035)], policy)
    found = row(result.calls, "a")
    assert found["preemptions"] == 1
    assert found["recomputed_tokens"] == 3
    assert policy.refusals() == []


def test_nobody_is_preempted_while_the_outputs_of_a_step_are_processed(play, program, call, row, scripted):
    """STALL comes between the output of the call that ended and those of the calls behind it."""
    policy = scripted({("STALL", "b"): (Preempt("p/a"),)})
    result = play([program("p", call("a", 16, 10)), program("q", call("b", 4, 2), at_s=0.001)], policy)
    ((name, found),) = policy.refusals()
    assert name == "Preempt"
    assert "outputs of a step are being processed" in found
    assert row(result.calls, "a")["preemptions"] == 0


def test_unpin_ends_a_keep(play, program, turn, flood, second, scripted):
    policy = scripted({("STALL", "first"): (Keep(),), ("QUEUED", "flood"): (Unpin("p/first"),)})
    assert second(play([program("p", *turn(16)), flood], policy))["gpu_hit_tokens"] == 0
    assert policy.refusals() == []


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (Keep(0.001), "the time to keep until has passed"),
        (Prefetch(), "the CPU tier has nothing more of the chain"),
        (Hold(100), "100 blocks are needed"),
        (Cancel(), "no transfer of this chain is under way"),
        (Preempt(), "the call is not running"),
        (Unpin("no/such"), "the call is not stalled"),
    ],
)
def test_illegal_actions_come_back(play, program, turn, scripted, action, reason):
    policy = scripted({("STALL", "first"): (action,)})
    result = play([program("p", *turn(16))], policy)
    ((name, found),) = policy.refusals()
    assert name == type(action).__name__
    assert reason in found
    assert result.summary["events"]["actions_refused"] == 1


def test_release_is_what_happens_anyway(play, program, turn, scripted):
    released = play([program("p", *turn(16))], scripted({("STALL", "first"): (Release(),)}))
    assert rows(released.calls) == rows(play([program("p", *turn(16))], scripted()).calls)
