"""vllm-priority: program arrival first, the latest program is preempted."""

from tokencake.policies.vllm_priority import VllmPriority


def starts(result):
    columns = result.calls.columns
    return dict(zip(columns["call"], columns["admitted_s"], strict=True))


def test_a_late_call_of_an_early_program_overtakes(play, program, call):
    """One call at a time: 'early' arrived first, so its second call passes two calls that wait longer."""
    early = program("early", call("e1", 8, 10), call("e2", 8, 2, after=("e1",)))
    late = program("late", call("l1", 8, 5), call("l2", 8, 5), at_s=0.002)
    found = starts(play([early, late], VllmPriority(), max_num_seqs=1))
    assert sorted(found, key=found.get) == ["e1", "e2", "l1", "l2"]


def test_fcfs_does_not_overtake(play, program, call):
    from tokencake.policies.vllm import Vllm

    early = program("early", call("e1", 8, 10), call("e2", 8, 2, after=("e1",)))
    late = program("late", call("l1", 8, 5), call("l2", 8, 5), at_s=0.002)
    found = starts(play([early, late], Vllm(), max_num_seqs=1))
    assert sorted(found, key=found.get) == ["e1", "l1", "l2", "e2"]


def test_ties_end_with_the_id(play, program, call):
    """Same program, same arrival: ids decide, not the order in the file."""
    found = starts(play([program("p", call("b", 8), call("a", 8))], VllmPriority(), max_num_seqs=1))
    assert sorted(found, key=found.get) == ["a", "b"]


def test_the_latest_program_is_the_victim(play, program, call, row):
    """The victim is not the last running call, but the one of the latest program, already scheduled or not."""
    second = program("second", call("s", 11, 20), at_s=0.001)
    first = program("first", call("f0", 4, 3), call("f1", 11, 20, after=("f0",)))
    result = play([first, second], VllmPriority(), gpu_blocks=10)
    assert row(result.calls, "s")["preemptions"] == 1
    assert row(result.calls, "f1")["preemptions"] == 0
    assert row(result.calls, "s")["admitted_s"] < row(result.calls, "f1")["admitted_s"]
