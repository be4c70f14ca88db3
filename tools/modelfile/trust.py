"""What the user vouches for: code in a model file, and classes of their own."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_grow.tools.cli.errors import InputError, one_paragraph


@dataclass(frozen=True)
class Trust:
    """What may run when a model is loaded besides Keras' own code.

    Attributes:
        code: whether code inside the file may run (``--trust``).
        custom: ``module:Class`` or ``module``, as given with ``--custom``.
    """

    code: bool = False
    custom: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules named with ``--custom``."""
        return tuple(dict.fromkeys(name.partition(":")[0] for name in self.custom))

    @property
    def names(self) -> tuple[str, ...]:
        """The classes and functions named with ``--custom``."""
        return tuple(name.partition(":")[2] for name in self.custom if ":" in name)

    def covers(self, module: str, *names: str) -> bool:
        """Whether the user vouches for a class of ``module`` which goes by one of ``names``."""
        if any(module == one or module.startswith(f"{one}.") for one in self.modules):
            return True
        return any(name.rpartition(">")[2] in self.names for name in names)

    def custom_objects(self) -> dict[str, Any]:
        """Import what ``--custom`` names; by name and by the name it is registered with.

        Keras must have its backend already. Modules are also looked for in the current folder,
        after everywhere else.

        Raises:
            InputError: a module cannot be imported, or has no such class or function.
        """
        import keras

        if self.custom and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        found: dict[str, Any] = {}
        for one in self.custom:
            module_name, colon, name = one.partition(":")
            try:
                module = importlib.import_module(module_name)
            except Exception as error:
                raise InputError(
                    f"--custom {one}: the module {module_name} cannot be imported from the current "
                    f"folder or the installed packages ({type(error).__name__}: "
                    f"{one_paragraph(error, limit=200)})."
                ) from error
            if not colon:
                continue  # its classes registered themselves when it was imported
            value = getattr(module, name, None)
            if not callable(value):
                raise InputError(
                    f"--custom {one}: the module {module_name} has no class or function {name!r}."
                )
            found[name] = value
            found[keras.saving.get_registered_name(value)] = value
        return found
