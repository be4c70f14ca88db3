"""What TensorBoard imports when it starts. Nothing here may make that fail."""

import logging
from typing import Any

from tensorboard.plugins import base_plugin

NAME = "keras_grow"

logger = logging.getLogger(__name__)


class GrowthLoader(base_plugin.TBLoader):
    """Loads the *Growth* tab, or leaves it out with a warning in TensorBoard's log."""

    def fix_flags(self, flags: Any) -> None:
        """Keeps every record of ours; TensorBoard would sample them, and growths are few.

        `--samples_per_plugin=keras_grow=N` of the user's is left as it is.
        """
        samples = getattr(flags, "samples_per_plugin", None)
        if isinstance(samples, dict):
            samples.setdefault(NAME, 0)

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin | None:
        """The plugin, or None: another plugin's fault must not be TensorBoard's, nor ours."""
        try:
            from keras_grow.tools.plugin.plugin import GrowthPlugin

            return GrowthPlugin(context)
        except Exception as error:
            logger.warning("The Growth tab is left out: %s: %s", type(error).__name__, error)
            return None
