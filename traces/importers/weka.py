"""WEKA-format Claude Code sessions: one JSON (or .json.gz) file each, or a folder of them.

A session becomes a program. Its own requests are a chain of calls; between two calls stands a tool
node, named ``tool`` when the first call stopped for a tool and ``human`` otherwise, that lasts as long
as the recorded think time. Sub-agents are parallel branches: the first call of a sub-agent comes after
the session's last call before it, and the next call of the session after the sub-agent's end waits for
it. Every call keeps its recorded start in ``at_s``, and all programs arrive at 0: the files have no
common clock. Prompts are rebuilt from 64-token block hashes, whose ids are local to a file
(:mod:`tokencake.traces.importers.hashes`); models are not told apart.

Rules for odd data, each counted in the report:

* an output of 0 tokens becomes 1; a request of 0 prompt tokens is dropped; ids beyond the prompt's
  length are cut;
* without ``think_time`` it is the gap between the calls; without ``api_time`` a call is taken to end
  when it starts (so a gap then includes it); a negative think time becomes 0;
* a call that joins sub-agents thinks for what is left after the latest end, as the recorded think
  time includes the sub-agents' run;
* a sub-agent without requests is dropped; one without an earlier call starts with the program; one
  that outlives the session's last call is joined by nothing; a missing ``duration_ms`` is the end of
  its last request;
* requests out of order are sorted by time; a session without any call is dropped; a repeated session
  id gets a number; a session whose calls are those of another one is kept and counted;
* what else lies in a folder (files of other kinds, folders) is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from tokencake.traces.errors import BadInput
from tokencake.traces.fields import an_object, name
from tokencake.traces.files import parse_json, read_bytes
from tokencake.traces.importers.names import header_for, stem
from tokencake.traces.importers.report import Report
from tokencake.traces.importers.weka_program import session_program
from tokencake.traces.importers.weka_session import Session, read_session
from tokencake.traces.schema import Header, LLMNode, Program

SOURCE = "weka"
FORM = "JSON with requests, block_size, hash_id_scope"
NO_ID = "session without id: file name used"
SAME_ID = "session id seen before: number added"
OTHER = "file or folder that is no .json, .json.gz or .json.zst: left out"
DUPLICATE = "session with the calls of an earlier session: kept"
NO_CALLS = "session without calls: dropped"


def sniff(path: Path, head: bytes) -> bool:
    """Return whether ``path`` is a session file or a folder with some; ``head`` is its first bytes."""
    if path.is_dir():
        return bool(_files(path))
    return b'"hash_id_scope"' in head or (b'"requests"' in head and b'"block_size"' in head)


def read(path: Path, report: Report) -> tuple[Header, Iterator[Program]]:
    """Return header and programs of a session file, or of a folder's files in order of their names.

    Raises:
        BadInput: while iterating, for a file or field that breaks a rule.
    """
    files = _files(path) if path.is_dir() else [path]
    others = len(list(path.iterdir())) - len(files) if path.is_dir() else 0
    return header_for(path, SOURCE), _programs(files, others, report)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith((".json", ".json.gz", ".json.zst")))


def _programs(files: list[Path], others: int, report: Report) -> Iterator[Program]:
    report.count(OTHER, others)
    names: set[str] = set()
    timelines: set[bytes] = set()
    for path in files:
        report.files += 1
        try:
            value = an_object(parse_json(read_bytes(path)))
            session_id = value.get("id")
            report.count(NO_ID, session_id is None)
            session_id = stem(path) if session_id is None else name(session_id, "id")
            session = read_session(value, report)
        except BadInput as error:
            raise error.at(path, error.line) from None
        if not session.calls:
            report.count(NO_CALLS)
            continue
        report.count(DUPLICATE, not _new(_timeline(session), timelines))
        report.count(SAME_ID, session_id in names)
        program = session_program(_unique(session_id, names), session, report)
        report.programs += 1
        report.calls += sum(isinstance(node, LLMNode) for node in program.nodes)
        yield program


def _timeline(session: Session) -> bytes:
    facts = repr([(call.at_s, call.prompt_tokens, call.output_tokens) for call in session.calls])
    return hashlib.blake2b(facts.encode(), digest_size=16).digest()


def _new(item: bytes, seen: set[bytes]) -> bool:
    if item in seen:
        return False
    seen.add(item)
    return True


def _unique(base: str, names: set[str]) -> str:
    chosen, number = base, 1
    while chosen in names:
        number += 1
        chosen = f"{base}#{number}"
    names.add(chosen)
    return chosen
