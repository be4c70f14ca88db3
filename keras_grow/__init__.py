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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_grow import rules, testing
    from keras_grow.apply import Slopes
    from keras_grow.errors import DataError, GrowthError, RefusedError
    from keras_grow.graph.outputs import Report, verify
    from keras_grow.growth import methods
    from keras_grow.growth.alignment import Alignment, alignment
    from keras_grow.growth.guarded import Growth
    from keras_grow.growth.history import history
    from keras_grow.logs.events import GrowthEvent, SiteGrowth
    from keras_grow.planning import Plan, Refusal, Site
    from keras_grow.rules import register_rule
    from keras_grow.surgery import (
        bridge,
        bridge_,
        flops,
        grow_,
        insert,
        insert_,
        plan,
        sites,
        widen,
    )
    from keras_grow.tools import figures
    from keras_grow.training import schedules, selectors
    from keras_grow.training.callback import GrowthCallback
    from keras_grow.training.trial import GrowthCheck, growth_check

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "DataError",
    "Growth",
    "GrowthCallback",
    "GrowthCheck",
    "GrowthError",
    "GrowthEvent",
    "Plan",
    "Refusal",
    "RefusedError",
    "Report",
    "Site",
    "SiteGrowth",
    "Slopes",
    "alignment",
    "bridge",
    "bridge_",
    "figures",
    "flops",
    "grow_",
    "growth_check",
    "history",
    "insert",
    "insert_",
    "methods",
    "plan",
    "register_rule",
    "rules",
    "schedules",
    "selectors",
    "sites",
    "testing",
    "verify",
    "widen",
]

_HOME = {
    "keras_grow.apply": ("Slopes",),
    "keras_grow.errors": ("DataError", "GrowthError", "RefusedError"),
    "keras_grow.growth": ("methods",),
    "keras_grow.growth.alignment": ("Alignment", "alignment"),
    "keras_grow.growth.guarded": ("Growth",),
    "keras_grow.growth.history": ("history",),
    "keras_grow.logs.events": ("GrowthEvent", "SiteGrowth"),
    "keras_grow.graph.outputs": ("Report", "verify"),
    "keras_grow.planning": ("Plan", "Refusal", "Site"),
    "keras_grow.rules": ("register_rule",),
    "keras_grow.surgery": (
        "bridge",
        "bridge_",
        "flops",
        "grow_",
        "insert",
        "insert_",
        "plan",
        "sites",
        "widen",
    ),
    "keras_grow.tools": ("figures",),
    "keras_grow.training": ("schedules", "selectors"),
    "keras_grow.training.callback": ("GrowthCallback",),
    "keras_grow.training.trial": ("GrowthCheck", "growth_check"),
}
_MODULES = ("rules", "testing")
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for (PEP 562).

    Importing keras_grow must not import Keras, which takes seconds and settles the backend: the
    command line answers --help at once and chooses an installed backend first.
    """
    if name in _MODULES:
        return importlib.import_module(f"keras_grow.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'keras_grow' has no attribute '{name}'")
    home = importlib.import_module(_MODULE_OF[name])
    if not hasattr(home, name):  # a module of that package, not imported yet
        importlib.import_module(f"{_MODULE_OF[name]}.{name}")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
