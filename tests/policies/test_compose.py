"""compose: decision points of several policies in one, and what is refused."""

import pytest

from tokencake.policies import registry
from tokencake.policies.api import EventKind, Info, Keep, Policy, Unpin
from tokencake.policies.compose import HOOKS, Compose
from tokencake.policies.registry import PolicyError
from tokencake.traces.schema import Program


class Mine(Policy):
    """For names of parameters."""

    def __init__(self, *, margin: float = 1.0):
        self.margin = margin

    def order(self, view, waiting):
        return waiting


@pytest.mark.parametrize("key", ["Mine", f"{__name__}:Mine"])
def test_parameters_of_a_class_go_by_either_name(key):
    policy = composed(order=f"{__name__}:Mine", params={key: {"margin": 3}})
    assert [part.margin for part in policy.parts] == [3.0]


def composed(**params):
    return registry.create("compose", params)


def test_an_order_alone_changes_the_order_alone(play, program, call):
    early = program("early", call("e1", 8, 10), call("e2", 8, 2, after=("e1",)))
    late = program("late", call("l1", 8, 5), call("l2", 8, 5), at_s=0.002)
    parts = dict.fromkeys(("order", "victim"), "vllm-priority")
    whole, part = registry.create("vllm-priority"), composed(**parts)
    assert (
        play([early, late], part, max_num_seqs=1).calls.columns
        == play([early, late], whole, max_num_seqs=1).calls.columns
    )


@pytest.mark.parametrize("name", ["infercept", "continuum", "kvflow", "autellix", "thunderagent", "concur"])
def test_all_decision_points_of_one_policy_are_that_policy(session, play, name):
    """The parts share one object and see every event: nothing is lost by taking a policy apart."""
    from tokencake.policies.api import overrides

    whole = registry.create(name)
    part = composed(**{hook: name for hook in HOOKS if overrides(whole, hook)})
    programs = [session(f"p{i}", turns=4, tool_s=0.05 * (i % 3), at_s=0.01 * i) for i in range(6)]
    settings = {"gpu_blocks": 200, "cpu_blocks": 300, "max_num_batched_tokens": 512}
    first, second = (play(programs, policy, **settings) for policy in (whole, part))
    assert first.calls.columns == second.calls.columns
    assert first.decisions.columns == second.decisions.columns


def test_an_order_works_without_its_placement(play, program, call, row):
    """What autellix's order needs to help the starving, and saga's to know deadlines, comes with the order."""
    heavy = program("heavy", call("h1", 8, 30), call("h2", 8, 2, after=("h1",)))
    stream = [program(f"s{i}", call(f"s{i}", 8, 10), at_s=0.001 + 0.009 * i) for i in range(40)]
    kind = composed(order="autellix", params={"autellix": {"first_quantum_s": 0.02, "starvation": 2.0}})
    assert row(play([heavy, *stream], kind, max_num_seqs=1).calls, "h2")["admitted_s"] < 0.25
    urgent = Program("urgent", "app", 1.002, (call("urgent", 8, 10),), labels={"deadline_s": 2.0})
    programs = [program("taught", call("t", 8, 10)), program("busy", call("b", 8, 10), at_s=1.0)]
    programs += [program("calm", call("calm", 8, 10), at_s=1.001), urgent]
    result = play(programs, composed(order="saga"), max_num_seqs=1)
    assert row(result.calls, "urgent")["admitted_s"] < row(result.calls, "calm")["admitted_s"]


def test_parameters_go_to_the_part_of_that_name():
    policy = composed(order="autellix", place="continuum", params={"autellix": {"mode": "atlas"}})
    assert isinstance(policy, Compose)
    assert policy.order.__self__.mode == "atlas"


def test_one_object_for_equal_names():
    policy = composed(order="autellix", place="autellix", victim="autellix")
    assert policy.order.__self__ is policy.place.__self__ is policy.victim.__self__


def test_a_class_from_outside_can_be_a_part(tmp_path, monkeypatch):
    (tmp_path / "outside_order.py").write_text(
        "from tokencake.policies.api import Policy\n\n"
        "class Last(Policy):\n    def order(self, view, waiting):\n        return waiting[::-1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert composed(order="outside_order:Last", place="thunderagent").order.__self__.__class__.__name__ == "Last"


def test_information_is_one_level_for_all():
    assert composed(order="autellix", place="thunderagent").info is Info.NONE
    assert composed(order="autellix", place="continuum").info is Info.HISTORY
    oracle = composed(order="autellix", place="continuum", info="oracle")
    assert oracle.info is oracle.place.__self__.info is Info.ORACLE
    assert oracle.order.__self__.info is Info.NONE


def test_what_is_refused_is_told_to_the_part_that_asked(play, program, turn):
    class Places(Policy):
        info = Info.NONE

        def __init__(self):
            self.heard = []

        def observe(self, event, view):
            if event.kind is EventKind.ACTION_REFUSED:
                self.heard.append(type(event.action).__name__)

        def place(self, view, trigger, subject):
            return (Unpin("no/such"),)

    class Listens(Places):
        def order(self, view, waiting):
            return waiting

    places, listens = Places(), Listens()
    names = {"place": "Places", "order": "Listens"}
    play([program("p", *turn())], Compose({"place": places, "order": listens}, names))
    assert places.heard
    assert listens.heard == []


class Knows(Policy):
    info = Info.ORACLE

    def order(self, view, waiting):
        return sorted(waiting, key=view.foresee_output)


class Keeps(Policy):
    together = {"place": ("victim", "its pins are its victims")}  # noqa: RUF012

    def place(self, view, trigger, subject):
        return (Keep(),)

    def victim(self, view, need, for_call):
        return view.running[0]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"order": "thunderagent"}, "thunderagent does not decide there; it decides place"),
        ({"place": "autellix"}, "policy.place=autellix needs order=autellix: it preempts for the calls"),
        ({"place": "autellix", "order": "vllm-priority"}, "needs order=autellix"),
        ({"evict_order": "kvflow"}, "policy.evict_order=kvflow needs place=kvflow: the steps are counted"),
        ({"place": "concur"}, "policy.place=concur needs admit=concur: the hit rate"),
        ({}, "policy=compose names no part"),
        ({"order": "autelix"}, "policy.order 'autelix': unknown policy; did you mean 'autellix'?"),
        ({"order": "compose"}, "policy.order 'compose': unknown policy"),
        ({"order": 3}, "policy.order: must name a policy, got 3"),
        ({"route": "vllm"}, "policy.route: unknown key; "),
        ({"order": "autellix", "params": {"continuum": {}}}, "policy.params.continuum: no part of that name"),
        ({"order": "autellix", "params": {"autellix": {"mod": 1}}}, "policy.params.autellix.mod: unknown parameter"),
        ({"order": "autellix", "info": "oracle"}, "asks for no duration and no length"),
        (
            {"place": "continuum", "info": "none"},
            "policy.info: must be one of class_mean, history, noisy_oracle, oracle",
        ),
    ],
)
def test_contradictions_are_refused_with_the_reason(parts, reason):
    with pytest.raises(PolicyError) as caught:
        composed(**parts)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_different_levels_are_refused():
    with pytest.raises(ValueError, match="order=Knows uses information level oracle, place=continuum history"):
        Compose({"order": Knows(), "place": registry.create("continuum")}, {"order": "Knows", "place": "continuum"})


def test_together_is_a_matter_of_objects():
    keeps = Keeps()
    Compose({"place": keeps, "victim": keeps}, {"place": "Keeps", "victim": "Keeps"})
    with pytest.raises(ValueError, match="place=Keeps needs victim=Keeps: its pins are its victims"):
        Compose({"place": keeps}, {"place": "Keeps"})


def test_info_is_a_parameter_of_whoever_asks():
    assert registry.create("continuum", {"info": "oracle"}).info is Info.ORACLE
    assert "info" in [param.name for param in registry.describe("continuum").params]
    assert "info" not in [param.name for param in registry.describe("vllm").params]
    with pytest.raises(PolicyError, match="vllm asks for no duration and no length"):
        registry.create("vllm", {"info": "oracle"})
