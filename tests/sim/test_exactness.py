"""Fast equals slow: jumps and runs change no byte of the output, whatever a policy does."""

from hypothesis import given
from hypothesis import strategies as st

from tokencake.sim.run import simulate


def bytes_of(result):
    """All tables and the summary, as one text."""
    tables = (result.programs, result.calls, result.transfers, result.kv, result.decisions)
    return repr([table.columns for table in tables] + [result.summary])


@given(data=st.data())
def test_jumps_and_runs_change_nothing(data, worlds, with_engine):
    programs, config, make_policy = data.draw(worlds)
    slow = simulate(programs, with_engine(config, jumps=False, runs=False), make_policy())
    assert slow.summary["programs"] == len(programs)
    expected = bytes_of(slow)
    for jumps, runs in ((True, False), (False, True), (True, True)):
        fast = simulate(programs, with_engine(config, jumps=jumps, runs=runs), make_policy())
        assert bytes_of(fast) == expected, (jumps, runs)
