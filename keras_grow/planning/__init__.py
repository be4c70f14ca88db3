"""From rules to a list of edits: which variable grows, along which axis, with what inside.

NumPy only: nothing here reads or changes a weight, nor asks Keras for anything.
What has to be asked goes through `graph` and `rules`.
"""

from keras_grow.planning.atlas import Atlas, survey
from keras_grow.planning.drafting import make_plan
from keras_grow.planning.plan import Edit, Plan, ReadSlot, SitePlan, WriteSlot
from keras_grow.planning.sites import Refusal, Site

__all__ = [
    "Atlas",
    "Edit",
    "Plan",
    "ReadSlot",
    "Refusal",
    "Site",
    "SitePlan",
    "WriteSlot",
    "make_plan",
    "survey",
]
