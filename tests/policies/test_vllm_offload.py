"""vllm-offload: what is copied, when, and what comes back."""

import pytest

from tokencake.policies.vllm_offload import VllmOffload
from tokencake.sim.config import LinkConfig

BLOCK = 4 * 1000


def moved(result, cause):
    columns = result.transfers.columns
    return [b for b, c in zip(columns["blocks"], columns["cause"], strict=True) if c == cause]


@pytest.mark.parametrize(("prompt_only", "blocks"), [(True, 3), (False, 5)])
def test_what_is_stored(play, program, call, prompt_only, blocks):
    """14 prompt and 8 output tokens: 3 full prompt blocks; the last token is never computed, so 21 tokens, 5 blocks."""
    result = play([program("p", call("a", 14, 8))], VllmOffload(prompt_only=prompt_only))
    assert sum(moved(result, "store")) == blocks
    assert result.summary["d2h_bytes"] == blocks * BLOCK


def test_outputs_are_copied_as_their_blocks_fill(play, program, call):
    """Prompt blocks leave with the first step, each output block with the step that fills it."""
    result = play([program("p", call("a", 14, 8))], VllmOffload(prompt_only=False), link=LinkConfig(free=True))
    assert moved(result, "store") == [3, 1, 1]
    # Step 1 computes 14 tokens; step 3 the 16th token, step 7 the 20th.
    assert result.transfers.columns["start_s"] == [0.001, 0.003, 0.007]


def test_nothing_is_copied_twice(play, program, call):
    """The same prompt again: the tier has its blocks already."""
    programs = [program("p", call("a", 12, content="x")), program("q", call("a", 12, content="x"), at_s=0.1)]
    assert moved(play(programs, VllmOffload()), "store") == [3]


@pytest.mark.parametrize(("prompt_only", "blocks"), [(True, 4), (False, 5)])
def test_what_is_loaded(play, program, call, turn, row, prompt_only, blocks):
    """After others took the whole GPU, the next turn loads its chain from the CPU: with or without the answer."""
    flood = program("flood", call("b", 70, 10), at_s=0.05)
    result = play([program("p", *turn(prompt=16, output=6)), flood], VllmOffload(prompt_only=prompt_only))
    second = row(result.calls, "second")
    assert second["gpu_hit_tokens"] == 0
    assert second["cpu_hit_tokens"] == blocks * 4
    assert second["computed_tokens"] == second["prompt_tokens"] - blocks * 4
    assert moved(result, "load") == [blocks]
    assert result.summary["h2d_bytes"] == blocks * BLOCK
    # It holds its blocks and waits for the copy, 4 ms a block; then one step.
    load = row(result.transfers, "load", "cause")
    assert load["finish_s"] - load["start_s"] == pytest.approx(0.004 * blocks)
    assert second["first_token_s"] == pytest.approx(load["finish_s"] + 0.001)


def test_a_pending_store_makes_a_twin_wait(play, program, call, row):
    """'b' finds nothing on the GPU but its blocks on their way to the CPU: it is asked again when they are there."""
    first = program("p", call("a", 16, content="x"))
    flood = program("flood", call("f", 79, content="y"), at_s=0.0005)
    twin = program("q", call("b", 17, content="x"), at_s=0.0025)
    result = play([first, flood, twin], VllmOffload(), gpu_blocks=20, max_num_batched_tokens=100)
    stored = row(result.transfers, "a")["finish_s"]
    found = row(result.calls, "b")
    assert found["admitted_s"] >= stored
    assert found["cpu_hit_tokens"] == 16


def test_a_full_tier_drops_the_oldest(play, program, call, row):
    """Four blocks of CPU: a, then b; a is gone, b is there."""
    programs = [
        program("p", call("a", 16)),
        program("q", call("b", 16), at_s=0.1),
        program("flood", call("f", 3, 77), at_s=0.2),
        program("r", call("b2", 17, content="b"), at_s=0.4),
        program("s", call("a2", 17, content="a"), at_s=0.5),
    ]
    result = play(programs, VllmOffload(), cpu_blocks=4)
    assert row(result.calls, "b2")["cpu_hit_tokens"] == 16
    assert row(result.calls, "a2")["cpu_hit_tokens"] == 0


@pytest.mark.parametrize("jumps", [False, True])
def test_a_call_that_waits_for_a_store_starts_with_the_step_after_it(play, program, call, row, jumps):
    """'c' finds its block on its way to the CPU until 1.1 ms: it is asked again at 2 ms, not when 'a' ends."""
    calls = [call(name, 1, output, content="x") for name, output in (("a", 3), ("b", 1), ("c", 1))]
    engine = {"block_size": 1, "max_num_batched_tokens": 5, "max_num_seqs": 2, "jumps": jumps}
    result = play([program("p", *calls)], VllmOffload(), link=LinkConfig(0.01, 0.01), **engine)
    assert row(result.transfers, "store", "cause")["finish_s"] == pytest.approx(0.0011)
    assert row(result.calls, "c")["admitted_s"] == pytest.approx(0.002)
