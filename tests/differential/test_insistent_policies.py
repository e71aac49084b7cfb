"""Whatever a policy insists on, a run ends or says why it does not, alike in both hosts, and leaves nothing behind."""

import os
import random
from dataclasses import replace

import equality
import pytest
from cases import make_case, with_cpu_tier
from insistent import Insistent

from tokencake.engine.install import missing
from tokencake.policies.api import Policy, Verdict, overrides, stock_admit
from tokencake.sim.config import StuckError

REASON = missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, when it is first used
]
MOST = int(os.environ.get("TOKENCAKE_SEEDS", "150")) * 4
ENGINES = ({}, {"jumps": False}, {"runs": False})


def hostile_case(seed):
    """A random case, often with a CPU tier, and often with no more memory than its longest call takes."""
    rng = random.Random(f"hostile/{seed}")
    case = make_case(seed, asynchronous=rng.random() < 0.5)
    if rng.random() < 0.65:
        case = with_cpu_tier(case)
    engine = case.config.engine
    if rng.random() < 0.3 and engine.max_model_len < 1 << 16:
        engine = replace(engine, gpu_blocks=-(-engine.max_model_len // engine.block_size))
    return replace(case, config=replace(case.config, engine=engine))


@pytest.mark.parametrize("seed", [*range(80), *(pytest.param(n, marks=pytest.mark.slow) for n in range(80, MOST))])
def test_a_policy_that_insists_is_treated_alike_and_comes_to_an_end(seed, monkeypatch):
    monkeypatch.setattr("tokencake.sim.liveness.MOST_IDLE_PLANS", 2_000)
    monkeypatch.setattr("tokencake.sim.liveness.MOST_STEPS_IN_VAIN", 300)
    try:
        assert equality.differences(hostile_case(seed), lambda: Insistent(seed), engines=ENGINES, most=100_000) == []
    except StuckError as error:
        policy = Insistent(seed)
        if not overrides(policy, "order") and not overrides(policy, "admit"):
            assert "in a row" in str(error), "nobody was kept out, and yet somebody waits for ever"


class Choosy(Policy):
    """Admits one program alone."""

    def admit(self, view, call, need):
        return stock_admit(need) if call.program.id == "p0" else Verdict.SKIP


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_what_was_decided_before_nobody_got_any_further_is_compared(seed):
    case = make_case(seed, asynchronous=False)
    with pytest.raises(StuckError, match="admits nothing"):
        equality.differences(case, Choosy)
    found = equality.differences(case, Choosy, engines=[{"max_num_batched_tokens": 3}])
    assert any("decisions, row" in text for text in found)
