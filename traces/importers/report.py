"""What an import did: how much it read, and how often it had to apply a rule for odd data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Report:
    """Counts of an import; complete once its programs have been iterated.

    Attributes:
        source: name of the importer.
        files: files read.
        programs: programs produced.
        calls: LLM calls produced.
        rules: how often each rule for odd data was applied, by the rule's text.
    """

    source: str
    files: int = 0
    programs: int = 0
    calls: int = 0
    rules: dict[str, int] = field(default_factory=dict)

    def count(self, rule: str, times: int = 1) -> None:
        """Note that ``rule`` was applied."""
        if times:
            self.rules[rule] = self.rules.get(rule, 0) + times

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object, its rules sorted by name."""
        return {
            "source": self.source,
            "files": self.files,
            "programs": self.programs,
            "calls": self.calls,
            "rules": dict(sorted(self.rules.items())),
        }
