"""Names that come once in a trace: those of programs, and the ids of nodes together with their program's."""

from __future__ import annotations

from tokencake.traces.errors import BadInput
from tokencake.traces.schema import Program


class Names:
    """The programs seen so far.

    Hosts, policies and result contents call a node ``<program>/<node>``. Two programs can only share such an id if
    the name of one, and an id in the other, have a slash in them: these alone are remembered.
    """

    def __init__(self) -> None:
        self._programs: set[str] = set()
        self._owners: dict[str, str] = {}

    def add(self, program: Program) -> None:
        """Take one more program.

        Raises:
            BadInput: Its name, or ``<program>/<node>`` of one of its nodes, is taken.
        """
        name = program.program
        if name in self._programs:
            raise BadInput("must be unique in the trace", field="program", value=name)
        self._programs.add(name)
        slashed = "/" in name
        for i, node in enumerate(program.nodes):
            if slashed or "/" in node.id:
                owner = self._owners.setdefault(f"{name}/{node.id}", name)
                if owner != name:
                    rule = f"must not make {name}/{node.id}, the name of a node of program {owner!r}"
                    raise BadInput(rule, field=f"nodes[{i}].id", value=node.id)
