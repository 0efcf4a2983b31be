"""Training on one machine: corpus, batches, objective, quantization in the loop, optimizer, trainer, state.

`wavefold.train(...)` runs `session.train`, and `wavefold.train.recipe` is a module of this package: the package can be
called. A function of that name in `wavefold` would not do, as importing a module of the package puts the package there.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Run `wavefold.train.session.train`."""
        from wavefold.train.session import train

        return train(*args, **settings)


sys.modules[__name__].__class__ = _CallablePackage
