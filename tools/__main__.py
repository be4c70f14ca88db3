"""``python -m keras_grow.tools`` is the same as ``keras-grow``."""

from keras_grow.tools.cli.main import main

if __name__ == "__main__":
    main()
