"""Mistakes in a user's policy are one line that names class, hook, answer and rule; nothing is written."""

import sys

import pytest

from tokencake.engine import install
from tokencake.experiments.cli import main
from tokencake.policies.api import Keep, Policy
from tokencake.policies.guard import HookError
from tokencake.policies.vllm import Vllm
from tokencake.sim.checks import sim_host

BROKEN = """
from tokencake.policies.api import Hold, Keep, Policy, Release, Reserve, Timer, Verdict


def half(x):
    return x / 0


class Ids(Policy):
    def order(self, view, waiting):
        return [call.id for call in waiting]


class Twice(Policy):
    def order(self, view, waiting):
        return [*waiting, waiting[0]]


class Foreign(Policy):
    def order(self, view, waiting):
        return [*waiting, object()]


class Forgets(Policy):
    def order(self, view, waiting):
        sorted(waiting, key=lambda call: call.id)


class Yes(Policy):
    def admit(self, view, call, need):
        return True


class Divides(Policy):
    def admit(self, view, call, need):
        return half(1)


class Deaf(Policy):
    def admit(self, call):
        return Verdict.ADMIT


class One(Policy):
    def place(self, view, trigger, subject):
        return Keep()


class Stumbles(Policy):
    def place(self, view, trigger, subject):
        yield Release()
        raise KeyError("x")


class NoKey(Policy):
    def evict_order(self, view, tier):
        return lambda call: None


class Mixed(Policy):
    def evict_order(self, view, tier):
        return lambda call: 1 if call.node == "plan" else "late"


class Forever(Policy):
    def place(self, view, trigger, subject):
        return (Keep(float("inf")),)


class Rings(Policy):
    def place(self, view, trigger, subject):
        return (Timer(None),)


class Holds(Policy):
    def place(self, view, trigger, subject):
        return (Hold(None),)


class Reserves(Policy):
    def place(self, view, trigger, subject):
        return (Reserve({"planner": None}),)


class Pairs(Policy):
    def place(self, view, trigger, subject):
        return (Reserve({("planner", 1): 3}),)


class Ages(Policy):
    def next_change(self, view):
        return 10**400, None


class When(Policy):
    store_when = None


class Late(Policy):
    @property
    def admit(self):
        return half(1)


class Halves(Policy):
    def store(self, view, chain, cause):
        return 2.5


class Peeks(Policy):
    def __init__(self):
        half(1)


class Level(Policy):
    info = "oracle"
"""

LINES = {
    "Ids": "Ids: order must return waiting calls themselves, not their ids, got 'demo-0000/plan' (mistaken.py:10)",
    "Twice": "Twice: order must return each call once, got ['demo-0000/plan', 'demo-0000/plan'] (mistaken.py:15)",
    "Foreign": "Foreign: order must return waiting calls and nothing else, got <object object",
    "Forgets": "Forgets: order must return waiting calls, in an order, got None (mistaken.py:25)",
    "Yes": "Yes: admit must return a Verdict (ADMIT, SKIP, LATER or STOP), got True (mistaken.py:30)",
    "Divides": "Divides: admit raised ZeroDivisionError: division by zero (mistaken.py:6); traceback: --debug",
    "Deaf": "Deaf: admit raised TypeError: Deaf.admit() takes 2 positional arguments but 4 were given (mistaken.py:40)",
    "One": "One: place must return a sequence of actions, () for none, got Keep(",
    "Stumbles": "Stumbles: place raised KeyError: 'x' (mistaken.py:52)",
    "NoKey": "NoKey: evict_order must return a key whose values compare, got None (mistaken.py:57)",
    "Mixed": "Mixed: evict_order must return a key whose values compare, got ",
    "Forever": "Forever: place must return until_s of the right type, a time in seconds of at most 1e12, got Keep(",
    "Rings": "Rings: place must return a Timer with a time or with a number of steps, got Timer(at_s=None, steps=None)",
    "Holds": "Holds: place must return whole numbers of blocks, got Hold(blocks=None, call='')",
    "Reserves": "Reserves: place must return whole numbers of blocks, got Reserve(blocks={'planner': None})",
    "Pairs": "Pairs: place must return blocks by agent type, got Reserve(blocks={('planner', 1): 3})",
    "Ages": "Ages: next_change must return a time in seconds of at most 1e12, or None, got (1000",
    "When": "When: store_when must be a tuple of prompt, output and finished, got None",
    "Late": "Late cannot be asked: ZeroDivisionError: division by zero (mistaken.py:6)",
    "Halves": "Halves: store must return a number of blocks, got 2.5 (mistaken.py:106)",
    "Peeks": "Peeks cannot be made: ZeroDivisionError: division by zero (mistaken.py:6)",
    "Level": "Level: info must be an Info, got 'oracle'",
}
SMALL = ["+experiment=tiny", "trace=demo", "trace.programs_count=4", "trace.qps=4"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mistaken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mistaken", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", LINES)
def test_one_line_and_nothing_written(name, folder, capsys):
    assert main(["run", "policy=custom", f"policy.target=mistaken:{name}", *SMALL, "out=run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tokencake: policy {LINES[name]}")
    assert [path.name for path in folder.iterdir() if path.name.startswith(("run", ".run"))] == []


def test_the_decision_log_is_no_obstacle(folder, capsys):
    words = ["policy=custom", "policy.target=mistaken:Ids", *SMALL, "log.decisions=true", "out=run"]
    assert main(["run", *words]) == 2
    assert LINES["Ids"] in capsys.readouterr().err


def test_a_part_is_named(folder, capsys):
    words = ["policy=compose", "policy.order=mistaken:Twice", "policy.place=continuum", *SMALL, "out=run"]
    assert main(["run", *words]) == 2
    assert LINES["Twice"] in capsys.readouterr().err


@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vllms_own_scheduler_asks_the_same_way(folder, capsys):
    for name in ("Twice", "Divides", "Halves", "Stumbles"):
        words = ["host=virtual", "policy=custom", f"policy.target=mistaken:{name}", *SMALL, "out=run"]
        assert main(["run", *words]) == 2
        assert LINES[name] in capsys.readouterr().err


def test_debug_shows_the_traceback(folder, capsys):
    words = ["run", "--debug", "policy=custom", "policy.target=mistaken:Divides", *SMALL, "out=run"]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text and "in half" in text


def test_from_python_the_cause_is_kept():
    class Broken(Policy):
        def place(self, view, trigger, subject):
            return [Keep(until_s="soon")]

    with pytest.raises(HookError, match=r"Broken: place must return until_s of the right type.*test_hook_errors.py"):
        sim_host().run(Broken())


def test_guarding_changes_no_decision():
    class Mine(Policy):
        def order(self, view, waiting):
            return (call for call in reversed(waiting))

    class Ours(Vllm):
        def order(self, view, waiting):
            return list(reversed(waiting))

    Ours.__module__ = "tokencake.policies.ours"  # not guarded
    assert sim_host().run(Mine()).output == sim_host().run(Ours()).output
