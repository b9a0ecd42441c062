"""A Griffe extension: the reference shows the values of default arguments, not their names."""

from __future__ import annotations

import importlib
from typing import Any

import griffe


def _shown(default: Any) -> Any:
    """Return the value of a default that is a constant's name; any other default unchanged."""
    if not isinstance(default, griffe.ExprName | griffe.ExprAttribute):
        return default
    module, _, name = default.canonical_path.rpartition(".")
    if not module.startswith("hqsam_"):
        return default
    value = getattr(importlib.import_module(module), name)
    return default if callable(value) else repr(value)


class RealDefaults(griffe.Extension):
    """Replaces the names of constants in signatures and fields by their values."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through a package that was loaded, with everything in it."""
        self._visit(pkg)

    def _visit(self, parent: griffe.Module | griffe.Class) -> None:
        for member in parent.members.values():
            if isinstance(member, griffe.Function):
                for parameter in member.parameters:
                    parameter.default = _shown(parameter.default)
            elif isinstance(member, griffe.Attribute) and "class-attribute" in member.labels:
                member.value = _shown(member.value)
            elif isinstance(member, griffe.Module | griffe.Class):
                self._visit(member)
