"""`python -m keras_grow.tools.coverage.child KEY FLOATX SINGLES`: measures one model.

Prints its record as a line of JSON. The backend is that of KERAS_BACKEND.
"""

import json
import sys

import keras

from keras_grow.tools.coverage.measure import measure
from keras_grow.tools.coverage.models import entry


def main(key: str, floatx: str, singles: str) -> None:
    keras.config.set_floatx(floatx)
    found = entry(key)
    record = measure(
        found.build,
        singles=int(singles),
        inputs_like=found.inputs_like,
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
