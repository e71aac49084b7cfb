"""`tokencake compare`: what the order of policies rests on, where a machine is not always equally fast."""

import pytest

from tokencake.experiments.cli import main
from tokencake.experiments.pairing import pair_up
from tokencake.experiments.ranking import rankings
from tokencake.experiments.results import find_runs


@pytest.fixture
def compared(write, tmp_path, capsys):
    """The ranking of runs, compared(measured, predicted, ...), and what the command says of it.

    Both have a list of latencies for each policy, one for each repeat, or None where there was none.
    """

    def one(measured, predicted, kind="repeat"):
        for host, which, latencies in (("live", "repeat", measured), ("sim", kind, predicted)):
            for policy, values in latencies.items():
                for i, latency in enumerate(values):
                    if latency is not None:
                        write(host, host, policy, latency, **{which: i})
        assert main(["compare", str(tmp_path / "live"), str(tmp_path / "sim"), f"--out={tmp_path / 'c'}"]) == 0
        (line,) = (text for text in capsys.readouterr().out.splitlines() if "Kendall's tau" in text)
        (rank,) = rankings(pair_up([find_runs([tmp_path / "live"]), find_runs([tmp_path / "sim"])]))
        return rank, line

    return one


def test_repeats_are_drawn_that_all_policies_have(compared):
    """The first is always the slower one; the first repeat of the second policy was ended early."""
    rank, line = compared(
        {"vllm": [10.0, 20.0, 30.0], "vllm-offload": [None, 18.0, 27.0]}, {"vllm": [2.0], "vllm-offload": [1.0]}
    )
    assert (rank.low, rank.high, rank.repeats) == (1.0, 1.0, 2)
    assert "(95 % bootstrap interval 1.00 to 1.00, over 2 measured repeats with predictions held fixed)" in line


def test_there_is_no_interval_without_a_repeat_that_all_have(compared):
    rank, line = compared(
        {"vllm": [10.0, 20.0], "vllm-offload": [None, 18.0, 27.0]}, {"vllm": [2.0], "vllm-offload": [1.0]}
    )
    assert rank.repeats == 1 and rank.tested == 0
    assert line.endswith("Kendall's tau -1.00; none of the 1 pairs differs by more than the spread.")


@pytest.mark.parametrize(("kind", "low"), [("repeat", 1.0), ("draw", -1.0)])
def test_predictions_for_a_repeat_are_drawn_with_it(kind, low, compared):
    """The machine was slow for the first policy in the second repeat, and its calibration right before saw it."""
    latencies = {"vllm": [10.0, 15.0, 10.0], "vllm-offload": [12.0, 13.0, 12.0]}
    rank, line = compared(latencies, latencies, kind)
    assert (rank.low, rank.tau, rank.high) == (low, 1.0, 1.0)
    assert rank.together is (kind == "repeat")
    drawn = "repeats and their predictions" if rank.together else "measured repeats with predictions held fixed"
    assert f"over 3 {drawn})" in line


def test_repeats_tell_apart_what_a_changing_machine_hides(compared):
    """It takes twice, then four times as long; the second is ten per cent faster, whatever the machine."""
    measured = {"vllm": [10.0, 20.0, 40.0], "vllm-offload": [9.0, 18.1, 35.9], "autellix": [10.1, 19.9, 40.2]}
    rank, line = compared(measured, {"vllm": [20.0], "vllm-offload": [25.0], "autellix": [30.0]})
    assert (rank.set_aside, rank.told_apart, rank.tested, rank.pairs) == (3, 2, 3, 3)
    assert rank.told_apart_tau == 0.0, "one of the two is predicted the other way round"
    assert line.endswith(
        "; none of the 3 pairs differs by more than the spread; 0.00 over the 2 of 3 pairs that are told apart repeat"
        " by repeat (the 95 % t interval of their relative difference excludes 0)."
    )


def test_repeats_that_one_policy_lacks_do_not_tell_it_apart(compared):
    """The first is slower in each repeat that both have, and was not run when the machine was slow."""
    rank, _ = compared(
        {"vllm": [10.0, 20.0], "vllm-offload": [9.0, 18.0, 36.0]},
        {"vllm": [11.0, 22.0], "vllm-offload": [10.0, 20.0, 40.0]},
    )
    assert (rank.told_apart, rank.told_apart_tau) == (1, 1.0)


def test_pairs_that_scatter_as_much_as_they_differ_are_not_told_apart(compared):
    rank, line = compared({"vllm": [10.0, 12.0], "vllm-offload": [11.0, 10.0]}, {"vllm": [1.0], "vllm-offload": [2.0]})
    assert (rank.told_apart, rank.tested) == (0, 1)
    assert "; none of the 1 pairs is told apart repeat by repeat (" in line


def test_single_runs_tell_nothing_apart(compared):
    rank, line = compared({"vllm": [10.0], "vllm-offload": [11.0]}, {"vllm": [1.0], "vllm-offload": [2.0]})
    assert rank.tested == 0
    assert line.endswith("Kendall's tau 1.00.")
