"""The five folders, their links, and what policies may import."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["policies", "traces", "sim", "engine", "experiments"])
def test_links_are_relative_and_lead_to_the_folders(name):
    link = ROOT / "src" / "tokencake" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../../{name}"
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "policies").rglob("*.py")), ids=lambda p: p.name)
def test_policies_import_the_standard_library_only(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert all(name.startswith("tokencake.policies") for name in foreign), foreign
