"""What each setting means: the text below its field in ``model.py``.

pydantic reads the same texts if ``use_attribute_docstrings`` is set, but at every import of the class, which takes
longer than making it. Here they are read when one is shown: in an error, and in the generated pages.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from pydantic_settings import BaseSettings


@cache
def meanings(settings: type[BaseSettings]) -> Mapping[str, str]:
    """Return the texts by field, each on one line."""
    module = ast.parse(inspect.getsource(sys.modules[settings.__module__]))
    [model] = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == settings.__name__]
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(model.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
