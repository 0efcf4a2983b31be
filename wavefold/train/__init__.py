"""Training on one machine: corpus, batches, objective, quantization in the loop, optimizer, trainer, state.

The package is callable: `wavefold.train(...)` runs `session.train`, and `wavefold.train.recipe` is one of its modules.
A function `wavefold.train` would not work: importing a module of the package replaces it by the package.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Calls `wavefold.train.session.train`."""
        from wavefold.train.session import train

        return train(*args, **settings)


sys.modules[__name__].__class__ = _CallablePackage
