"""keras_grow: make a Keras 3 model bigger without losing what it has learned.

```python
import keras_grow as kg

kg.sites(model)                      # where it can grow
wider = kg.widen(model, {"conv_1": 96})
kg.verify(model, wider)              # the same function
model.fit(..., callbacks=[kg.GrowthCallback((x, y))])   # or in the middle of one fit
```
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_grow.apply import Slopes
    from keras_grow.errors import DataError, GrowthError, RefusedError
    from keras_grow.growth import methods, schedules, selectors
    from keras_grow.growth.callback import GrowthCallback
    from keras_grow.growth.events import GrowthEvent, SiteGrowth
    from keras_grow.growth.outputs import Report, verify
    from keras_grow.plan import Plan, Refusal, Site
    from keras_grow.surgery import flops, grow_, plan, sites, widen

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "GrowthCallback",
    "GrowthError",
    "GrowthEvent",
    "Plan",
    "Refusal",
    "RefusedError",
    "Report",
    "Site",
    "SiteGrowth",
    "Slopes",
    "flops",
    "grow_",
    "methods",
    "plan",
    "schedules",
    "selectors",
    "sites",
    "verify",
    "widen",
]

_HOME = {
    "keras_grow.apply": ("Slopes",),
    "keras_grow.errors": ("DataError", "GrowthError", "RefusedError"),
    "keras_grow.growth": ("methods", "schedules", "selectors"),
    "keras_grow.growth.callback": ("GrowthCallback",),
    "keras_grow.growth.events": ("GrowthEvent", "SiteGrowth"),
    "keras_grow.growth.outputs": ("Report", "verify"),
    "keras_grow.plan": ("Plan", "Refusal", "Site"),
    "keras_grow.surgery": ("flops", "grow_", "plan", "sites", "widen"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


class _Package(types.ModuleType):
    """Loads what is asked for when it is asked for.

    Importing keras_grow must not import Keras, which takes seconds and settles the backend: the
    command line answers --help at once and chooses an installed backend first.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'keras_grow' has no attribute '{name}'")
        home = importlib.import_module(_MODULE_OF[name])
        if not hasattr(home, name):  # a module of that package, not imported yet
            importlib.import_module(f"{_MODULE_OF[name]}.{name}")
        value = getattr(home, name)
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # `keras_grow.plan` is the function; importing the package of that name must not hide it.
        if not (name in _MODULE_OF and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
