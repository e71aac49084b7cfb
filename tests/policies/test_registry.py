"""Names, parameters and errors of the registry."""

import sys

import pytest

from tokencake.policies import registry
from tokencake.policies.api import Policy
from tokencake.policies.registry import PolicyError
from tokencake.policies.vllm import Vllm
from tokencake.policies.vllm_offload import VllmOffload

MODULE = '''
from typing import Literal
from tokencake.policies.api import Policy

class Mine(Policy):
    """Mine."""

    def __init__(self, *, weight: float, mode: Literal["keep", "drop"] = "keep", limit: int | None = None):
        if weight < 0:
            raise ValueError(f"weight must be >= 0, got {weight}")
        self.weight, self.mode, self.limit = weight, mode, limit

class NotOne:
    pass
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module from outside the repository, in the directory where a user works."""
    (tmp_path / "outsider.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import no_such_thing")
    (tmp_path / "unfinished.py").write_text("def :")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "outsider:Mine"
    sys.modules.pop("outsider", None)


def test_fresh_objects():
    first, second = registry.create("vllm"), registry.create("vllm", {})
    assert type(first) is Vllm
    assert first is not second


def test_describe_comes_from_the_class():
    info = registry.describe("vllm-offload")
    assert info.summary.startswith("vLLM with native CPU offloading")
    (param,) = info.params
    assert (param.name, param.type, param.default) == ("prompt_only", "bool", True)
    assert param.doc.startswith("Copy prompt blocks only") and param.doc.endswith("as they fill.")


@pytest.mark.parametrize("name", registry.names())
def test_every_policy_is_described(name):
    info = registry.describe(name)
    assert len(info.summary) > 20
    registry.create(name, {param.name: param.default for param in info.params})


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("vlm", {}, "policy 'vlm': unknown policy; did you mean 'vllm'?"),
        ("zzz", {}, "policy 'zzz': unknown policy; all 23: tokencake policies"),
        ("vllm", {"x": 1}, "policy.x: unknown parameter; vllm has none"),
        (
            "vllm-offload",
            {"promptonly": True},
            "policy.promptonly: unknown parameter; did you mean 'prompt_only'?",
        ),
        ("vllm-offload", {"prompt_only": "yes"}, "policy.prompt_only: must be bool, got 'yes'"),
        ("vllm-offload", {"prompt_only": 1}, "policy.prompt_only: must be bool, got 1"),
        ("random", {"seed": True}, "policy.seed: must be int, got True"),
        ("random", {"wildness": 3}, "policy: wildness must be >= 0 and <= 1, got 3.0"),
        ("custom", {}, "policy.target: must name a class as module:Class, got None"),
        ("no_such.module:X", {}, "policy 'no_such.module:X': there is no module 'no_such.module'"),
        ("outsider:Mina", {}, "policy 'outsider:Mina': outsider has no 'Mina'; did you mean 'Mine'?"),
        ("outsider:Mine", {}, "policy.weight: missing"),
        ("outsider:Mine", {"weight": "x"}, "policy.weight: must be float, got 'x'"),
        ("custom", {"target": "a", "x": 1}, "policy.x: unknown key; a custom policy takes target and params"),
        ("custom", {"target": "outsider"}, "policy.target 'outsider': must be module:Class"),
        ("custom", {"target": "no_such.module:X"}, "there is no module 'no_such.module'"),
        ("custom", {"target": "broken:X"}, "cannot import broken: No module named 'no_such_thing'"),
        ("custom", {"target": "unfinished:X"}, "cannot import unfinished: SyntaxError"),
        ("custom", {"target": "outsider:Mina"}, "outsider has no 'Mina'; did you mean 'Mine'?"),
        ("custom", {"target": "outsider:NotOne"}, "must be a subclass of tokencake.policies.api.Policy"),
        ("custom", {"target": "outsider:Mine"}, "policy.params.weight: missing"),
        (
            "custom",
            {"target": "outsider:Mine", "params": {"weight": "x"}},
            "policy.params.weight: must be float, got 'x'",
        ),
        (
            "custom",
            {"target": "outsider:Mine", "params": {"weight": 1, "mode": "lose"}},
            "policy.params.mode: must be 'keep' or 'drop', got 'lose'",
        ),
        (
            "custom",
            {"target": "outsider:Mine", "params": {"weight": -1}},
            "policy.params: weight must be >= 0, got -1.0",
        ),
        (
            "custom",
            {"target": "outsider:Mine", "params": {"weight": 1, "limit": 2.5}},
            "policy.params.limit: must be int or null, got 2.5",
        ),
    ],
)
def test_errors_are_one_line(mine, name, params, message):
    with pytest.raises(PolicyError) as caught:
        registry.create(name, params)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_custom(mine):
    policy = registry.create("custom", {"target": mine, "params": {"weight": 2, "limit": None}})
    assert (policy.weight, policy.mode, policy.limit) == (2.0, "keep", None)
    assert isinstance(policy.weight, float)


def test_a_class_is_named_as_module_and_class(mine):
    policy = registry.create(mine, {"weight": 2, "limit": None})
    assert (policy.weight, policy.mode, policy.limit) == (2.0, "keep", None)
    assert next(param.name for param in registry.describe(mine).params) == "weight"


def test_custom_is_no_registered_name():
    assert "custom" not in registry.names()


@pytest.mark.parametrize("name", ["vllm", "custom"])
def test_duplicates_are_refused(name):
    with pytest.raises(PolicyError, match="registered already"):
        registry.register(name, VllmOffload)


def test_registered_parameters_have_defaults_and_words():
    class NoDefault(Policy):
        """X.

        Args:
            a: A.
        """

        def __init__(self, *, a: int) -> None: ...

    class NoWords(Policy):
        """X."""

        def __init__(self, *, a: int = 1) -> None: ...

    with pytest.raises(PolicyError, match="'a' must have a default"):
        registry.register("new", NoDefault)
    with pytest.raises(PolicyError, match="'a' must be documented"):
        registry.register("new", NoWords)
    with pytest.raises(PolicyError, match="must be a subclass"):
        registry.register("new", dict)
    assert "new" not in registry.names()
