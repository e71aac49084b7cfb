"""docs/policies is what the classes say."""

from pathlib import Path

import pytest

from tokencake.policies import registry
from tokencake.policies.answers import HOOKS
from tokencake.policies.api import Info, overrides
from tokencake.policies.pages import pages

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "policies"
HINT = "run: tokencake policies --pages docs/policies"


@pytest.mark.parametrize("name", sorted(pages()))
def test_pages_are_current(name):
    assert (FOLDER / name).is_file(), HINT
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], HINT


def test_there_is_no_page_without_a_policy():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(pages())


@pytest.mark.parametrize("name", registry.names())
def test_a_page_says_what_a_reader_needs(name):
    text = pages()[f"{name}.md"]
    policy = registry.create(name)
    for hook in HOOKS:
        assert (f"| `{hook}` |" in text) == overrides(policy, hook)
    for param in registry.describe(name).params:
        assert f"| `policy.{param.name}` |" in text
    assert "``" not in text
    if policy.info is not Info.NONE and name != "random":
        assert "## Assumed" in text
