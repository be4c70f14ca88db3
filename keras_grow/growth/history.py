"""What has happened to a model: kept with it, and inside the file that it is saved to."""

import os
import time
import weakref
from pathlib import Path
from typing import Any

import keras

from keras_grow import _keras
from keras_grow.errors import GrowthError
from keras_grow.growth.guarded import Growth
from keras_grow.logs.events import GrowthEvent
from keras_grow.logs.history_file import FILE, encode_history, read_history


def history(source: Any, into: Any = None) -> list[GrowthEvent]:
    """How a model has grown: by `GrowthCallback`, `widen`, `insert`, `bridge` and their like.

    A model that has grown carries its history, and so does the `.keras` file it is saved to, which
    loads without keras_grow as it always does. What Keras has loaded (and copied, or unpickled)
    does not know its history any more; `into` gives it back:

    ```python
    model = keras.saving.load_model("grown.keras")
    kg.history("grown.keras", into=model)  # saved again, it still has it
    ```

    What was grown outside of `fit` has as its step the iterations of the model's optimizer, 0
    without one, and epoch 0.

    Args:
        source: a model, or the path of a saved one.
        into: a model that is to go on with this history.

    Returns:
        Its growths, oldest first; empty if there were none. Entries of a file that cannot be read
        are left out.

    Raises:
        GrowthError: no model, no such file, or a file whose history is damaged.
    """
    if isinstance(source, (str, os.PathLike)):
        found, _ = read_history(source)
    elif isinstance(source, keras.Model):
        found = past(source)
    else:
        raise GrowthError(
            "history takes a Keras model or the path of a saved one. Received: an object of type "
            f"{type(source).__name__}."
        )
    if into is not None:
        if not isinstance(into, keras.Model):
            raise GrowthError(f"into must be a Keras model. Received: into={into!r:.100}")
        _set(into, found)
    return found


def past(model: Any) -> list[GrowthEvent]:
    """The growths of a live model."""
    keeper = _keras.assets_hook(model)
    return list(keeper.events) if isinstance(keeper, _Keeper) else []


def remember(model: Any, event: GrowthEvent) -> None:
    """Adds a growth to what a model has been through."""
    _set(model, [*past(model), event])


def inherit(model: Any, source: Any) -> None:
    """A copy has been through what its original has."""
    events = past(source)
    if events:
        _set(model, events)


def note(model: Any, done: Growth) -> None:
    """Remembers a surgery outside of `GrowthCallback`."""
    report = done.report
    event = GrowthEvent(
        step=_keras.iterations(model),
        epoch=0,
        sites=done.sites,
        parameters_before=done.before.parameters,
        parameters_after=done.after.parameters,
        flops_before=done.before.flops,
        flops_after=done.after.flops,
        loss=done.loss,
        deviation=None if report is None else report.relative,
        tolerance=None if report is None else report.tolerance,
        seconds=dict(done.seconds),
        time=time.time(),
    )
    remember(model, event)


def _set(model: Any, events: list[GrowthEvent]) -> None:
    _keras.set_assets_hook(model, _Keeper(model, events))


class _Keeper:
    """What Keras calls when it saves the model, with the folder for the model's own assets."""

    def __init__(self, model: Any, events: list[GrowthEvent]) -> None:
        self.events = events
        self._model = None if model is None else weakref.ref(model)

    def __call__(self, folder: str) -> None:
        model = None if self._model is None else self._model()
        own = getattr(type(model), "save_assets", None)
        if own is not None:
            own(model, folder)
        if self.events:
            Path(folder, FILE).write_bytes(encode_history(self.events))

    def __reduce__(self) -> Any:
        return _Keeper, (None, self.events)
