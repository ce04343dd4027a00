"""A switch: an attribute of a module or class is another one for a while."""

from __future__ import annotations

from contextlib import ExitStack


def replace_in(stack: ExitStack, owner: object, name: str, value: object) -> None:
    """Replace an attribute of a module or class until the stack is left."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    stack.callback(setattr, owner, name, before)
