"""Views that show what the interface says, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tokencake.policies import api

_PROTOCOLS = (
    api.View,
    api.ChainView,
    api.CallView,
    api.ProgramView,
    api.ToolView,
    api.TierView,
    api.LinkView,
    api.CostView,
)
_NAMES = tuple(frozenset(name for name in vars(protocol) if not name.startswith("_")) for protocol in _PROTOCOLS)


class Shown:
    """A host's view, reduced to the names of its protocol; it cannot be written to."""

    __slots__ = ("_gallery", "_names", "_view")

    def __init__(self, view: object, names: frozenset[str], gallery: Gallery):
        object.__setattr__(self, "_view", view)
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "_gallery", gallery)

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AssertionError(f"the policy reads {name!r} of a view, which the interface does not have")
        value = getattr(self._view, name)
        show = self._gallery.show
        if callable(value):
            return lambda *args: show(value(*map(self._gallery.behind, args)))
        return show(value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError(f"the policy sets {name!r} of a view; views are read-only")

    def __repr__(self) -> str:
        return repr(self._view)


class Gallery:
    """Shows every view of a host as one :class:`Shown`, so that a policy may compare and hash them."""

    def __init__(self) -> None:
        self._shown: dict[int, tuple[object, Shown]] = {}
        self._names: dict[type, frozenset[str] | None] = {}

    def show(self, value: Any) -> Any:
        """A view as a :class:`Shown`; containers are shown read-only, other values as they are."""
        if isinstance(value, str | api.Need):
            return value
        if isinstance(value, list | tuple):
            return tuple(map(self.show, value))
        if isinstance(value, Mapping):
            return MappingProxyType(dict(value))
        names = self._protocol(value)
        if names is None:
            return value
        known = self._shown.get(id(value))
        if known is None:
            known = self._shown[id(value)] = (value, Shown(value, names, self))
        return known[1]

    def behind(self, value: Any) -> Any:
        """The host's own view behind a shown one."""
        return object.__getattribute__(value, "_view") if isinstance(value, Shown) else value

    def _protocol(self, value: object) -> frozenset[str] | None:
        kind = type(value)
        if kind not in self._names:
            have = set(dir(value))
            fitting = [names for names in _NAMES if names <= have]
            self._names[kind] = max(fitting, key=len) if fitting else None
        return self._names[kind]
