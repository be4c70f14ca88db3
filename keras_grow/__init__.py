"""keras_grow: make a Keras 3 model bigger without losing what it has learned.

```python
import keras_grow as kg

kg.sites(model)                      # where it can grow
wider = kg.widen(model, {"conv_1": 96})
kg.verify(model, wider)              # the same function
model.fit(..., callbacks=[kg.GrowthCallback((x, y))])   # or in the middle of one fit
```
"""

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
