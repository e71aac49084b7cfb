"""The words after `tokencake run`, made into Hydra overrides, and Hydra's complaints made into one line."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from tokencake.experiments.errors import UsageError, one_line
from tokencake.policies.compose import HOOKS
from tokencake.policies.hints import did_you_mean

# Values that are paths or dotted names: taken as they stand where Hydra's grammar would stumble over a character.
_VERBATIM = ("out", "trace.path", "hardware.profile", "policy.target", *(f"policy.{hook}" for hook in HOOKS))
_ONCE = ("out", "overwrite", "resume", "host")
_SET_BY_GROUP = ("policy.name", "trace.source")
_LISTED_BY = {"policy": "tokencake policies", "hardware": "tokencake hardware"}
_FILE_OF = {"trace": "trace.path", "hardware": "hardware.profile"}
_FILES = (".yaml", ".yml", ".csv", ".json", ".jsonl", ".gz", ".zst")
_CLASS = re.compile(r"\.py$|[./]")  # in what was meant as a policy class
_MULTIRUN, _CONFIG_DIR, _CFG, _PACKAGE, _INFO = "--multirun", "--config-dir", "--cfg", "--package", "--info"
_ALONE = ("--help", "--hydra-help", "--resolve", "--shell-completion")
_FLAGS = (_MULTIRUN, _CONFIG_DIR, _CFG, _PACKAGE, _INFO, *_ALONE)
_SHORT = {
    "-m": _MULTIRUN,
    "-cd": _CONFIG_DIR,
    "-c": _CFG,
    "-p": _PACKAGE,
    "-i": _INFO,
    "-h": "--help",
    "-sc": "--shell-completion",
}
_PARTS_OF_CFG = ("job", "hydra", "all")
_KINDS_OF_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# Keys that are looked for where they cannot be set.
_ELSEWHERE = {
    "trace.path": "a file is read where trace= names no generator; leave one of the two out",
    "trace.seed": "a trace is drawn with the run's seed (seed=N)",
}


@dataclass(frozen=True)
class Command:
    """What was typed, sorted.

    Attributes:
        flags: options for Hydra that say something and run nothing, such as `--cfg job`.
        overrides: `key=value` words.
        multirun: whether `-m` was among them.
    """

    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    multirun: bool


def sort_words(words: Sequence[str]) -> Command:
    """Tell flags from overrides and repair what can be repaired.

    Raises:
        UsageError: a word that is neither, or a flag without the value that it needs.
    """
    flags: list[str] = []
    overrides: list[str] = []
    multirun = False
    left = deque(words)
    while left:
        word = left.popleft()
        if word.startswith("-"):
            flag, joined, value = word.partition("=")
            if joined:  # --flag=value is --flag value
                left.appendleft(value)
            flag = _SHORT.get(flag, flag)
            if flag == _MULTIRUN:
                multirun = True
            elif flag == _CONFIG_DIR:
                overrides.append(_search_path(left.popleft() if left else ""))
            else:
                flags += _informing(flag, left)
        elif "=" in word or word.startswith("~"):
            overrides.append(_repaired(word))
        else:
            raise UsageError(f"{word!r}: neither a flag nor key=value (try: tokencake run --help)")
    return Command(tuple(flags), tuple(overrides), multirun)


def _informing(flag: str, left: deque[str]) -> list[str]:
    """A flag of Hydra's that runs nothing, with its value, which is taken from the words that are left."""
    if flag not in _FLAGS:
        raise UsageError(f"{flag}: not a flag of tokencake run; {did_you_mean(flag, _FLAGS)}")
    if flag in _ALONE:
        return [flag]
    if flag == _INFO:
        return [flag, left.popleft() if left and left[0] in _KINDS_OF_INFO else _KINDS_OF_INFO[0]]
    value = left.popleft() if left else ""
    if flag == _CFG and value not in _PARTS_OF_CFG:
        raise UsageError(f"{flag}: must be one of {', '.join(_PARTS_OF_CFG)}, got {value!r}")
    if not value:
        raise UsageError(f"{flag}: needs a value")
    return [flag, value]


def _search_path(directory: str) -> str:
    path = Path(directory).absolute()
    if not directory or not path.is_dir():
        raise UsageError(f"--config-dir {directory}: no such directory")
    return f"hydra.searchpath=['file://{path}']"


def _repaired(word: str) -> str:
    key, _, value = word.partition("=")
    if key == "experiment":  # it is added to the configuration; Hydra wants that said
        return f"+{word}"
    if key in _VERBATIM and not _parses(word):
        return f"{key}='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return word


def _parses(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def parse(overrides: Iterable[str]) -> list[Override]:
    """Parse overrides.

    Raises:
        UsageError: one that Hydra's grammar does not know.
    """
    parser = OverridesParser.create()
    parsed = []
    for word in overrides:
        try:
            parsed.append(parser.parse_override(word))
        except (OverrideParseException, HydraException) as error:
            raise UsageError(f"{word!r}: not a valid override ({_complaint(error)})") from error
    return parsed


def _complaint(error: HydraException) -> str:
    """What Hydra's grammar stumbled over, without the tokens that it would have liked."""
    text = one_line(str(error)).split(" See http")[0].split(" expecting ")[0]
    if text == "mismatched input '<EOF>'":
        return "it ends too early: a comma, bracket or quote is open"
    odd = re.search(r"'(.*)'$", text)
    return f"cannot read {odd[1]}; close brackets and quotes, quote odd characters: KEY='\"VALUE\"'" if odd else text


def choices(override: Override) -> Iterator[str]:
    """The values of an override, one or several."""
    return map(str, override.sweep_iterator() if override.is_discrete_sweep() else [override.value()])


def check_options(parsed: Iterable[Override], options: Mapping[str, Sequence[str]]) -> None:
    """Check choices such as `policy=` against what there is.

    Raises:
        UsageError: an unknown choice, one that is there twice, or a sweep over what cannot be swept.
    """
    chosen: dict[str, str] = {}
    for override in parsed:
        key = override.get_key_element().lstrip("+~")
        if override.is_discrete_sweep():
            _check_sweep(override, key)
        known = options.get(key)
        if known is None or override.is_delete():
            continue
        word = str(override.input_line).lstrip("+")
        if key in chosen:
            raise UsageError(f"{chosen[key]} {word}: one {key} a run; several in a sweep: run -m {key}=A,B")
        chosen[key] = word
        for value in choices(override):
            if value not in known:
                hint = did_you_mean(value, known, _LISTED_BY.get(key, ""))
                if key in _FILE_OF and ("/" in value or value.endswith(_FILES)):
                    hint = f"a file is {_FILE_OF[key]}={value}"
                elif key == "policy" and _CLASS.search(value):
                    hint = "a class of your own is policy=module:Class"
                raise UsageError(f"{key}={value}: unknown {key}; {hint}")


def _check_sweep(override: Override, key: str) -> None:
    """Check that a key can be swept, and that no two of its jobs would be one."""
    if key in _ONCE:
        raise UsageError(f"{override.input_line}: {key} cannot be swept")
    values = list(choices(override))
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UsageError(f"{override.input_line}: {twice} is there twice")


def check_single(parsed: Iterable[Override]) -> None:
    """Check that nothing is to be swept.

    Raises:
        UsageError: several values without -m.
    """
    for override in parsed:
        if override.is_sweep_override():
            raise UsageError(f"{override.input_line}: several values need a sweep: tokencake run -m ...")


def explain(error: HydraException, keys: Iterable[str]) -> UsageError:
    """Say what Hydra said in one line; `keys` are the configuration keys there are."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        cause = one_line(str(error.__cause__ or ""))
        if "not in struct" in cause or not cause:
            hint = _ELSEWHERE.get(match[1]) or _closest(match[1], keys)
            return UsageError(f"{match[1]}: unknown key; {hint}")
        return UsageError(f"{match[1]}: {cause.split(' full_key:')[0]}")
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        hint = "; install tokencake[launchers]" if match[1].startswith("hydra/launcher") else ""
        return UsageError(f"{match[1]}: no such configuration{hint}")
    return UsageError(one_line(text))


def _closest(key: str, keys: Iterable[str]) -> str:
    """What is beside a key; at the top, sections end in `.*`."""
    known = dict.fromkeys(keys)
    group = key.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == group and k not in _SET_BY_GROUP]
    if not group or not siblings:
        single = [k for k in known if "." not in k]
        sections = dict.fromkeys(k.partition(".")[0] for k in known)
        siblings = [*single, *(f"{section}.*" for section in sections if section not in single)]
        key = f"{group}.*" if group else key
    return did_you_mean(key, siblings)
