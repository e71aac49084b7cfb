"""What the README shows works as shown."""

import re
from pathlib import Path

import pytest

from tokencake.experiments.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_policy_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    (tmp_path / "readme_policy.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["policy=readme_policy:ShortestFirst", "trace=demo", "trace.programs_count=3"]
    assert main(["run", "+experiment=tiny", *words, "out=a"]) == 0


PAGES = ["README.md", "CHANGELOG.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("**/*.md"))]


def headings(page):
    """Names by which a page's headings are linked to."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", PAGES)
def test_links_lead_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", path.read_text(encoding="utf-8"))
    for file, heading in links:
        target = path.parent / file if file else path
        assert target.exists()
        assert not heading or heading in headings(target)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        line.strip().replace("'", "") for line in README.splitlines() if line.startswith("    tokencake run policy")
    ]
    lines += [line.strip().replace("'", "") for line in README.splitlines() if line.startswith("    tokencake run -m")]
    lines = [line for line in lines if "my_module" not in line] + ["tokencake plot runs/sweep"]
    assert len(lines) == 3
    for line in lines:
        assert main(line.split()[1:]) == 0
