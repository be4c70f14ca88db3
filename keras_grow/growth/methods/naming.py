"""Methods by name."""

from typing import Any

from keras_grow.errors import GrowthError, nearest
from keras_grow.growth.methods.base import METHODS, Method
from keras_grow.growth.methods.checking import check_method


def get(method: Any) -> Method:
    """A method from its name, its class or itself, as `keras.losses.get` does for losses.

    Raises:
        GrowthError: no such name, or an object that is no method.
    """
    if isinstance(method, str):
        try:
            return METHODS[method.lower().replace("_", "").replace("-", "")]()
        except KeyError:
            raise GrowthError(
                f"There is no growth method '{method}'. {nearest(method, METHODS)} "
                f"Received: method={method!r}."
            ) from None
    if isinstance(method, type) and callable(getattr(method, "solve", None)):
        method = method()
    check_method(method)
    return method
