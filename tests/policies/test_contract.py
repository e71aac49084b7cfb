"""Every registered policy keeps the contract; broken ones are found out."""

import pytest

from tokencake.policies import registry
from tokencake.policies.api import Budget, Info, Policy, Release, Trigger, Verdict
from tokencake.policies.checks import CHECKS, check_policy
from tokencake.policies.compose import Compose
from tokencake.sim.checks import sim_host
from tokencake.sim.config import StuckError

VARIANTS = [(name, {}) for name in registry.names()]
VARIANTS += [(name, {"info": "oracle"}) for name in registry.names() if registry.create(name).info is not Info.NONE]
VARIANTS += [
    ("vllm-offload", {"prompt_only": False}),
    ("autellix", {"mode": "atlas", "first_quantum_s": 0.05}),
    ("continuum", {"samples": 3}),
    ("infercept", {"estimator": "foreseen"}),
    ("infercept", {"estimator": "foreseen", "info": "noisy_oracle"}),
    ("lightllm", {"estimate": "history"}),
    ("lightllm", {"busy_usage": 0.9}),
    ("belady", {"weight": "cost", "tiers": "both"}),
    ("belady", {"info": "history"}),
    ("mori", {"interval_s": 0.1}),
    ("thunderagent", {"interval_s": 0.1, "decay": False}),
    ("concur", {"start": 1, "interval_s": 0.1}),
    ("compose", {"order": "autellix", "victim": "autellix", "place": "continuum", "store": "vllm-offload"}),
    ("compose", {"place": "infercept", "evict_order": None, "admit": "concur", "budget": "infercept"}),
]
VARIANTS += [("tokencake-upstream", {"mode": mode}) for mode in ("base", "agent", "offload")]
VARIANTS += [("tokencake-upstream", {"commit": commit}) for commit in ("progress", "reclaim")]
VARIANTS += [("tokencake-upstream", {"temporal_selection": order}) for order in ("best_fit", "priority_first")]
VARIANTS += [
    ("tokencake", params)
    for params in (
        {"temporal": False},
        {"spatial": False},
        {"hold": "release"},
        {"gate": False, "prediction": False},
        {"gate": False, "spatial": False},
        {"partition": "static", "cpu_buffering": False, "selection": "best_fit"},
        {"lend_idle": False, "partition_period": 10},
    )
]
VARIANTS += [("random", {"seed": seed, "wildness": wildness}) for seed in range(1, 7) for wildness in (0.2, 0.8)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=str)
def test_registered_policies(name, params, check):
    check(lambda: registry.create(name, params), sim_host)


def test_a_method_that_is_nearly_a_hook_breaks_the_contract():
    class Half(Policy):
        def order(self, view, waiting):
            return waiting

        def orders(self):
            """Beside a hook that is there: no slip."""

        def next_chnage(self, view):
            return None

    told = "Half: method next_chnage is no hook and is never asked; did you mean next_change?"
    for make in (Half, lambda: Compose({"order": Half()}, {"order": "Half"})):
        with pytest.raises(AssertionError) as caught:
            check_policy(make, sim_host)
        assert str(caught.value).startswith(told)
        assert str(caught.value).count("no hook") == 1


def test_the_default_world_is_demanding():
    """It evicts, preempts, loads and stalls; a contract kept there means something."""
    outcome = sim_host().run(registry.create("vllm-offload"))
    assert "'preemptions': 0" not in outcome.output
    assert "'cpu_hit': 0" not in outcome.output
    assert "'free_list_turnover_s': None" not in outcome.output


class PeeksInside(Policy):
    def order(self, view, waiting):
        return sorted(waiting, key=lambda call: call._call.output)


class WritesToViews(Policy):
    def order(self, view, waiting):
        view.block_size = 1
        return waiting


class InventsCalls(Policy):
    def order(self, view, waiting):
        return [*waiting, *waiting]


class SaysYes(Policy):
    def admit(self, view, call, need):
        return True


class StopsTheEngine(Policy):
    def budget(self, view):
        return Budget(0)


class WrongVictim(Policy):
    def victim(self, view, need, for_call):
        return view.waiting[0] if view.waiting else None


class PlacesText(Policy):
    def place(self, view, trigger, subject):
        return ["release"]


class StoresHalves(Policy):
    def store(self, view, chain, cause):
        return chain.blocks / 2


class Remembers(Policy):
    runs = 0

    def __init__(self):
        Remembers.runs += 1
        self.turn = Remembers.runs

    def order(self, view, waiting):
        return waiting if self.turn % 2 else list(reversed(waiting))


class CountsSteps(Policy):
    """Ages without saying so."""

    def admit(self, view, call, need):
        return Verdict.SKIP if view.step % 7 and view.running else Verdict.ADMIT


class WantsTheTruth(Policy):
    info = Info.NONE

    def order(self, view, waiting):
        return sorted(waiting, key=view.foresee_output)


class DeafToRefusals(Policy):
    """Fine in itself; the suite must not mistake it."""

    def place(self, view, trigger, subject):
        return [Release()] if trigger is Trigger.STALL else []


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (PeeksInside, "'_call'"),
        (WritesToViews, "read-only"),
        (InventsCalls, "each call once"),
        (SaysYes, "a Verdict"),
        (StopsTheEngine, "at least one token"),
        (WrongVictim, "a running call"),
        (PlacesText, "actions"),
        (StoresHalves, "a number of blocks"),
        (Remembers, "two equal runs differ"),
        (CountsSteps, "next_change"),
    ],
)
def test_broken_policies(policy, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_policy(policy, sim_host)


def test_a_policy_that_was_made_already_is_copied_for_every_check():
    policy = registry.create("autellix")
    before = repr(vars(policy))
    check_policy(policy, sim_host)
    assert repr(vars(policy)) == before
    with pytest.raises(AssertionError, match="at least one token"):
        check_policy(StopsTheEngine(), sim_host)


def test_truths_are_hidden():
    with pytest.raises(AssertionError, match=r"WantsTheTruth asks for what it may not know: .* level is NONE"):
        check_policy(WantsTheTruth, sim_host)


def test_no_policy_at_all():
    with pytest.raises(AssertionError, match="not a tokencake"):
        check_policy(object, sim_host)


def test_a_sound_policy_passes():
    check_policy(DeafToRefusals, sim_host)


def test_complaints_name_the_class_that_they_are_about():
    class NoPolicy:
        pass

    class Starves(Policy):
        def admit(self, view, call, need):
            return Verdict.SKIP

    with pytest.raises(AssertionError, match=r"^NoPolicy is not a tokencake\.policies\.api\.Policy"):
        check_policy(NoPolicy, sim_host)
    with pytest.raises(StuckError, match=r"^policy Starves admits nothing"):
        check_policy(Starves, sim_host)
