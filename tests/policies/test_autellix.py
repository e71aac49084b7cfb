"""autellix: who goes first, who is preempted, and who is helped."""

import pytest

from tokencake.policies.autellix import Autellix
from tokencake.policies.vllm import Vllm
from tokencake.sim.config import LinkConfig


@pytest.fixture
def starts(play):
    """Order of first admissions, one call at a time."""

    def find(programs, policy):
        columns = play(programs, policy, max_num_seqs=1).calls.columns
        return sorted(columns["call"], key=lambda name: columns["admitted_s"][columns["call"].index(name)])

    return find


def test_the_program_with_less_service_goes_first(starts, program, call):
    """'h2' waits before 'n' does, but its program has had 30 ms and the other none."""
    heavy = program("heavy", call("h1", 8, 30), call("h2", 8, 2, after=("h1",)))
    other = program("other", call("o", 8, 5), at_s=0.02)
    new = program("new", call("n", 8, 2), at_s=0.032)
    quick = Autellix(first_quantum_s=0.01)
    assert starts([heavy, other, new], quick) == ["h1", "o", "n", "h2"]
    assert starts([heavy, other, new], Vllm()) == ["h1", "o", "h2", "n"]


def test_equal_programs_are_served_first_come_first_served(play, program, call):
    """Where nobody has had more service than others, there is nothing to reorder."""
    programs = [program(f"p{i}", call(f"c{i}", 8, 6), at_s=0.001 * i) for i in range(6)]
    fair = play(programs, Autellix(), max_num_seqs=2)
    assert fair.calls.columns == play(programs, Vllm(), max_num_seqs=2).calls.columns


def test_atlas_counts_the_longest_chain(starts, program, call):
    """Three calls of 20 ms side by side: 60 ms of service, a chain of 20 ms."""
    wide = program("wide", *(call(f"w{i}", 8, 20) for i in range(3)), call("w3", 8, 2, after=("w0", "w1", "w2")))
    deep = program("deep", call("d0", 8, 30), call("d1", 8, 2, after=("d0",)), at_s=0.001)

    # Queues: below 25 ms, below 50 ms, the rest. A call of 300 ms holds the engine while w3 and d1 queue up.
    def order(mode):
        policy = Autellix(mode=mode, queues=3, first_quantum_s=0.025, interval_steps=10**6)
        found = starts([wide, deep], policy)
        return found.index("w3") < found.index("d1")

    assert order("atlas")
    assert not order("plas")


def test_a_running_call_is_demoted_and_preempted(play, program, call, row):
    """A call of 70 ms has used up its quantum when a short one arrives; FCFS makes that one wait."""
    programs = [program("p", call("long", 8, 70)), program("q", call("short", 8, 2), at_s=0.05)]
    preempting = play(programs, Autellix(first_quantum_s=0.02, interval_steps=10), max_num_seqs=1)
    assert row(preempting.calls, "short")["admitted_s"] <= 0.062
    assert row(preempting.calls, "long")["preemptions"] == 1
    patient = play(programs, Autellix(first_quantum_s=1.0, interval_steps=10), max_num_seqs=1)
    assert row(patient.calls, "long")["preemptions"] == 0
    assert row(patient.calls, "short")["admitted_s"] == pytest.approx(0.07)


def test_nobody_is_preempted_for_an_equal(play, program, call):
    programs = [program("p", call("a", 8, 50)), program("q", call("b", 8, 50), at_s=0.001)]
    result = play(programs, Autellix(first_quantum_s=0.02, interval_steps=10), max_num_seqs=1)
    # 'a' falls after 20 ms; then 'b' does, and both are in one queue until the next bound at 40 ms.
    assert 1 <= result.summary["preemptions"] <= 4


def test_nobody_is_preempted_for_who_could_not_start(play, program, call):
    """Six new calls of 60 tokens, and 60 tokens until the next look: one running call makes room, not all three."""

    class Watched(Autellix):
        most = 0

        def place(self, view, trigger, subject):
            actions = super().place(view, trigger, subject)
            self.most = max(self.most, len(actions))
            return actions

    old = [program(f"old{i}", call(f"old{i}", 16, 100)) for i in range(3)]
    new = [program(f"new{i}", call(f"new{i}", 60, 2), at_s=0.04) for i in range(6)]
    watched = Watched(first_quantum_s=0.02, interval_steps=10)
    play([*old, *new], watched, gpu_blocks=40, max_num_batched_tokens=6, cpu_blocks=0)
    assert watched.most == 1


def test_a_preempted_call_comes_back_from_the_cpu(play, program, call, row):
    """Its prompt of 60 tokens is evicted while another runs: it is loaded, or most of it is computed again."""
    programs = [program("p", call("long", 60, 40)), program("q", call("short", 70, 2), at_s=0.025)]
    fast = LinkConfig(1.0, 1.0)
    swapped, lost = (
        play(programs, Autellix(first_quantum_s=0.02, interval_steps=10, swap=swap), gpu_blocks=26, link=fast)
        for swap in (True, False)
    )
    assert row(swapped.calls, "long")["preemptions"] == row(lost.calls, "long")["preemptions"] == 1
    assert swapped.summary["h2d_bytes"] > 0
    assert lost.summary["d2h_bytes"] == lost.summary["h2d_bytes"] == 0
    assert row(swapped.calls, "long")["recomputed_tokens"] < 40 < row(lost.calls, "long")["recomputed_tokens"]


def test_the_starving_are_helped(play, program, call, row):
    """A stream of new programs keeps a second call waiting, until it has waited for long enough."""
    heavy = program("heavy", call("h1", 8, 30), call("h2", 8, 2, after=("h1",)))
    stream = [program(f"s{i}", call(f"s{i}", 8, 10), at_s=0.001 + 0.009 * i) for i in range(40)]
    strict = play([heavy, *stream], Autellix(first_quantum_s=0.02, starvation=1e9), max_num_seqs=1)
    kind = play([heavy, *stream], Autellix(first_quantum_s=0.02, starvation=2.0), max_num_seqs=1)
    assert row(kind.calls, "h2")["admitted_s"] < 0.25
    assert row(strict.calls, "h2")["admitted_s"] > 0.4


@pytest.mark.parametrize(
    ("params", "rule"),
    [
        ({"queues": 0}, "queues must be >= 1"),
        ({"interval_steps": 0}, "interval_steps must be >= 1"),
        ({"first_quantum_s": 0.0}, "first_quantum_s must be > 0"),
        ({"growth": 1.0}, "growth must be > 1"),
        ({"starvation": 0.0}, "starvation must be > 0"),
    ],
)
def test_parameters_are_checked(params, rule):
    with pytest.raises(ValueError, match=rule):
        Autellix(**params)
