"""Files made to do harm: every one is refused in a paragraph, and nothing of it is run.

Each file is built for real. Code in it would create a marker file, which must not appear; and the
memory that it asks for must not be taken.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import socket
import struct
import sys
import threading
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_grow.tools.modelfile.kinds import model_format


def refused(result, pattern):
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    paragraph = result.stderr.partition("Error: ")[2].strip()
    assert "\n" not in paragraph
    assert 20 < len(paragraph) < 1000
    assert re.search(pattern, paragraph), (pattern, paragraph)


# --- builders ------------------------------------------------------------------------------------


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def dense():
    return keras.Sequential(
        [
            keras.Input((3,), name="in"),
            keras.layers.Dense(4, name="first"),
            keras.layers.Dense(2, name="last"),
        ],
        name="net",
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The members of a good .keras file, and a good .h5 file."""
    folder = tmp_path_factory.mktemp("parts")
    dense().save(folder / "good.keras")
    dense().save(folder / "good.h5")
    with zipfile.ZipFile(folder / "good.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return members, folder / "good.h5", folder / "good.keras"


class Kit:
    """Builds one hostile file in a folder of its own."""

    def __init__(self, parts, folder):
        self.members, self.h5, self.keras = parts
        self.folder = folder / "files"
        self.folder.mkdir()
        self.marker = folder / "marker"

    def zip(self, change=None, name="model.keras", **options):
        """A .keras file; ``change`` gives members new content, or takes them away with None."""
        path = self.folder / name
        with zipfile.ZipFile(path, "w", **options) as archive:
            for member, content in {**self.members, **(change or {})}.items():
                if content is not None:
                    archive.writestr(member, content)
        return path

    def config(self, edit):
        """A .keras file with an edited configuration."""
        config = json.loads(self.members["config.json"])
        edit(config)
        return self.zip({"config.json": json.dumps(config)})

    def layer(self, **entry):
        """A .keras file whose last layer is another one."""

        def edit(config):
            config["config"]["layers"][-1] = {
                "module": "keras.layers",
                "registered_name": None,
                "build_config": {"input_shape": [None, 4]},
                **entry,
            }

        return self.config(edit)

    def weights(self, edit):
        """A .keras file with an edited HDF5 file inside."""
        buffer = io.BytesIO(self.members["model.weights.h5"])
        with h5py.File(buffer, "r+") as tensors:
            edit(tensors)
        return self.zip({"model.weights.h5": buffer.getvalue()})

    def legacy(self, edit, name="model.h5"):
        """An edited .h5 file."""
        path = self.folder / name
        shutil.copy(self.h5, path)
        with h5py.File(path, "r+") as tensors:
            edit(tensors)
        return path

    def legacy_config(self, edit):
        """An .h5 file with an edited configuration."""

        def change(tensors):
            config = json.loads(tensors.attrs["model_config"])
            edit(config)
            tensors.attrs["model_config"] = json.dumps(config)

        return self.legacy(change)

    def bytes(self, content, name="model.keras"):
        path = self.folder / name
        path.write_bytes(content)
        return path


@pytest.fixture
def kit(parts, tmp_path):
    return Kit(parts, tmp_path)


def pickled_code(marker):
    """Keras' pickled form of a function which would create the marker."""
    path = str(marker)
    layer = keras.layers.Lambda(lambda x: (__import__("os").mkdir(path), x)[1], name="bad")
    return keras.saving.serialize_keras_object(layer)["config"]


def set_first(**settings):
    return lambda config: config["config"]["layers"][1]["config"].update(settings)


CASES = {}


def case(pattern):
    def add(build):
        CASES[build.__name__] = (build, pattern)
        return build

    return add


# --- code ----------------------------------------------------------------------------------------


@case("layer 'bad' holds Python code.*--trust")
def lambda_in_keras(kit):
    return kit.layer(class_name="Lambda", config=pickled_code(kit.marker))


@case("layer 'bad' holds Python code.*--trust")
def lambda_in_h5(kit):
    code = pickled_code(kit.marker)
    return kit.legacy_config(
        lambda c: c["config"]["layers"].append({"class_name": "Lambda", "config": code})
    )


@case("layer 'bad' holds Python code.*--trust")
def lambda_of_keras_2(kit):
    raw = pickled_code(kit.marker)["function"]["config"]["code"]
    code = {"name": "bad", "function": [raw, None, None], "function_type": "lambda"}
    return kit.legacy_config(
        lambda c: c["config"]["layers"].append({"class_name": "Lambda", "config": code})
    )


@case("pickled function")
def lambda_as_an_activation(kit):
    function = pickled_code(kit.marker)["function"]
    return kit.config(set_first(activation=function))


@case("uses 'system' of the Python module 'os'.*--custom os:system")
def function_of_another_module(kit):
    return kit.layer(module="os", class_name="system", config={"name": "bad", "command": "true"})


@case("uses 'system' of the Python module 'os'")
def function_as_an_activation(kit):
    return kit.config(
        set_first(
            activation={
                "module": "os",
                "class_name": "function",
                "config": "system",
                "registered_name": "system",
            }
        )
    )


@case("of the Python module 'evil.layers'")
def module_that_would_be_imported(kit):
    package = kit.folder / "evil"
    package.mkdir()
    (package / "__init__.py").write_text(f"import os; os.mkdir({str(kit.marker)!r})")
    return kit.layer(module="evil.layers", class_name="Layer", config={"name": "bad"})


@case("'get_file' of 'keras.utils', a part of Keras that reads or writes")
def download(kit):
    return kit.config(
        set_first(
            activation={
                "module": "keras.utils",
                "class_name": "function",
                "config": "get_file",
                "registered_name": "get_file",
            }
        )
    )


@case("'VGG16' of 'keras.applications'")
def download_of_weights(kit):
    return kit.layer(module="keras.applications", class_name="VGG16", config={"name": "bad"})


@case("runs a TensorFlow program from another folder")
def saved_model_layer(kit):
    return kit.layer(class_name="TFSMLayer", config={"name": "bad", "filepath": str(kit.folder)})


@case("pickled PyTorch module")
def torch_module(kit):
    return kit.layer(class_name="TorchModuleWrapper", config={"name": "bad", "module": "AAAA"})


@case("reads its vocabulary from another file, '/etc/hostname'")
def vocabulary_file(kit):
    return kit.layer(
        class_name="StringLookup", config={"name": "bad", "vocabulary": "/etc/hostname"}
    )


@case("no name of a class")
def helper_function_in_h5(kit):
    return kit.legacy_config(
        lambda c: c["config"]["layers"].append(
            {"class_name": "deserialize", "config": {"name": "bad"}}
        )
    )


@case("not a saved Keras model.*a Python pickle")
def pickle_renamed(kit):
    return kit.bytes(pickle.dumps(Touch(kit.marker)))


@case("a Python pickle")
def pickle_renamed_h5(kit):
    return kit.bytes(pickle.dumps(Touch(kit.marker), protocol=2), "model.h5")


@case("PyTorch checkpoint")
def torch_checkpoint(kit):
    return kit.zip({"config.json": None, "archive/data.pkl": pickle.dumps(Touch(kit.marker))})


# --- paths and links -----------------------------------------------------------------------------


@case(r"'\.\./\.\./escaped' would be written outside")
def traversal(kit):
    return kit.zip({"../../escaped": b"x"})


@case("would be written outside")
def traversal_in_assets(kit):
    return kit.zip({"assets/../../escaped": b"x"})


@case("would be written outside")
def absolute_member(kit):
    return kit.zip({str(kit.marker): b"x"})


@case("would be written outside")
def windows_member(kit):
    return kit.zip({"assets\\..\\..\\escaped": b"x"})


@case("a link or a special file")
def link_member(kit):
    path = kit.zip()
    info = zipfile.ZipInfo("assets/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


@case(r"holds 'config\.json' twice")
def two_configurations(kit):
    path = kit.zip()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    return path


def other_weights(kit):
    path = kit.folder / "secret.h5"
    with h5py.File(path, "w") as tensors:
        tensors["0"] = np.ones((3, 4), "float32")
    return path


@case("an external link, which could read other files")
def external_link(kit):
    secret = other_weights(kit)

    def edit(tensors):
        variables = tensors["layers/dense/vars"]
        del variables["0"]
        variables["0"] = h5py.ExternalLink(str(secret), "0")

    return kit.weights(edit)


@case("a soft link")
def soft_link(kit):
    def edit(tensors):
        tensors["layers/dense/vars/2"] = h5py.SoftLink("/layers")

    return kit.weights(edit)


@case("a virtual dataset")
def virtual_dataset(kit):
    layout = h5py.VirtualLayout((3, 4), "float32")
    layout[:] = h5py.VirtualSource(str(other_weights(kit)), "0", (3, 4))
    return kit.weights(lambda t: t.create_virtual_dataset("layers/dense/vars/2", layout))


@case("keeps its numbers in another file")
def external_dataset(kit):
    return kit.legacy(
        lambda t: t.create_dataset(
            "model_weights/more", (4,), "float32", external=[("/etc/passwd", 0, 16)]
        )
    )


@case("an external link")
def external_link_in_h5(kit):
    secret = other_weights(kit)

    def edit(tensors):
        del tensors["model_weights"]
        tensors["model_weights"] = h5py.ExternalLink(str(secret), "/")

    return kit.legacy(edit)


# --- sizes ---------------------------------------------------------------------------------------

TERA = 10**12


def widths(first, last=2):
    def edit(config):
        for layer, units in zip(config["config"]["layers"][1:], (first, last), strict=True):
            layer["config"]["units"] = units
            del layer["build_config"]

    return edit


@case(r"asks for [\d,]+ weights \(.* in float32; the largest are .*1000000000000.*it holds 26")
def absurd_units(kit):
    return kit.config(widths(TERA))


@case("Keras cannot load")
def absurd_units_that_do_not_fit(kit):
    """The layers do not fit each other, but the first would be built before that is found."""
    return kit.config(set_first(units=TERA))


@case(r"asks for [\d,]+ weights")
def absurd_product(kit):
    """Neither number is absurd by itself."""

    return kit.config(widths(10**6, 10**6))


@case(r"asks for [\d,]+ weights")
def absurd_units_in_h5(kit):
    return kit.legacy_config(lambda c: c["config"]["layers"][1]["config"].update(units=TERA))


@case("batch_shape")
def absurd_input(kit):
    return kit.config(
        lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None, TERA, TERA])
    )


@case("batch_shape")
def negative_input(kit):
    return kit.config(lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None, -7]))


@case("'bad' makes a tensor of shape")
def absurd_tensor(kit):
    return kit.layer(class_name="RepeatVector", config={"name": "bad", "n": TERA})


@case("Keras cannot load")
def negative_units(kit):
    return kit.config(set_first(units=-4))


@case(r"would unpack to .* GB")
def zip_bomb(kit):
    path = kit.folder / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in kit.members.items():
            archive.writestr(name, content)
        with archive.open("assets/zeros", "w", force_zip64=True) as member:
            for _ in range(40):
                member.write(bytes(2**23))
    # What it declares is all that is looked at: say that it is 300 GB.
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    small = struct.unpack_from("<I", data, at + 24)[0]
    assert small == 40 * 2**23
    struct.pack_into("<I", data, at + 24, 2**32 - 2)
    path.write_bytes(data)
    return path


@case(r"config\.json is .* and at most")
def huge_configuration(kit):
    path = kit.folder / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (70 * 2**20))
    return path


@case("its weights would be .* TB")
def dataset_bomb(kit):
    return kit.weights(lambda t: t.create_dataset("bomb", (TERA,), "float32", chunks=(2**20,)))


@case("its weights would be .* TB")
def dataset_bomb_in_h5(kit):
    def edit(tensors):
        group = tensors["model_weights/first/net/first"]
        del group["kernel"]
        group.create_dataset("kernel", (TERA, 4), "float32", chunks=(2**18, 4))

    return kit.legacy(edit)


@case("nested more than")
def deep_configuration(kit):
    return kit.zip({"config.json": '{"a":' * 100_000 + "1" + "}" * 100_000})


@case("nested more than")
def deep_lists_in_h5(kit):
    deep = "[" * 50_000 + "]" * 50_000
    return kit.legacy(lambda t: t.attrs.__setitem__("model_config", deep))


@case("loaded|Keras cannot load")
def deep_models(kit):
    def edit(config):
        inner = config["config"]["layers"]
        for _ in range(200):
            inner = [
                inner[0],
                {"module": "keras", "class_name": "Sequential", "registered_name": None,
                 "config": {"name": "s", "layers": inner}},
            ]  # fmt: skip
        config["config"]["layers"] = inner

    return kit.config(edit)


# --- wrong types and damage ----------------------------------------------------------------------


@case("no JSON object")
def list_for_a_configuration(kit):
    return kit.zip({"config.json": "[1, 2]"})


@case("no class_name with a config")
def empty_configuration(kit):
    return kit.zip({"config.json": "{}"})


@case("class_name 5 and module None|class_name 5 and module")
def number_for_a_class(kit):
    return kit.layer(class_name=5, config={})


@case("Keras cannot load")
def text_for_layers(kit):
    return kit.config(lambda c: c["config"].update(layers="many"))


@case("Keras cannot load")
def null_layers(kit):
    return kit.config(lambda c: c["config"].update(layers=[None, 3]))


@case("Keras cannot load")
def text_for_units(kit):
    return kit.config(set_first(units="four"))


@case("no model but a single Dense")
def layer_for_a_model(kit):
    content = json.dumps(keras.saving.serialize_keras_object(keras.layers.Dense(3)))
    return kit.zip({"config.json": content})


@case("no UTF-8")
def latin_configuration(kit):
    return kit.zip({"config.json": b'{"class_name": "\xff"}'})


@case("should be a text")
def array_for_a_configuration(kit):
    return kit.legacy(lambda t: t.attrs.__setitem__("model_config", np.arange(5)))


@case("no model_config")
def h5_without_configuration(kit):
    return kit.legacy(lambda t: t.attrs.__delitem__("model_config"))


@case("training_config is no JSON")
def training_settings_are_junk(kit):
    return kit.legacy(lambda t: t.attrs.__setitem__("training_config", "{lr"))


@case("no model.weights.h5")
def no_weights(kit):
    return kit.zip({"model.weights.h5": None})


@case("cannot be read as HDF5")
def weights_are_noise(kit):
    return kit.zip({"model.weights.h5": np.random.default_rng(0).bytes(5000)})


@case("cannot be read as HDF5")
def weights_cut(kit):
    return kit.zip({"model.weights.h5": kit.members["model.weights.h5"][:-3000]})


@case("damaged: its model.weights.h5 cannot be unpacked")
def one_bit_wrong(kit):
    content = bytearray(kit.keras.read_bytes())
    start = content.index(b"\x89HDF")
    content[start + len(kit.members["model.weights.h5"]) // 2] ^= 1
    return kit.bytes(bytes(content))


@case("damaged|not a saved Keras model")
def h5_cut(kit):
    content = kit.h5.read_bytes()
    return kit.bytes(content[: len(content) // 2], "model.h5")


@case("is encrypted")
def encrypted(kit):
    content = bytearray(kit.keras.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(magic)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(magic, at + 4)
    return kit.bytes(bytes(content))


# --- something else ------------------------------------------------------------------------------


@case("holds no config.json")
def foreign_zip(kit):
    path = kit.folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    return path


@case("a NumPy archive")
def numpy_archive(kit):
    path = kit.folder / "model.keras"
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))
    return path


@case("an ONNX model")
def onnx(kit):
    return kit.bytes(b"\x08\x07\x12\x07pytorch:\xf0\x01", "model.onnx")


@case("TensorFlow Lite")
def tflite(kit):
    return kit.bytes(b"\x1c\0\0\0TFL3" + bytes(100), "model.keras")


@case("Git LFS pointer")
def lfs_pointer(kit):
    return kit.bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@case("a web page")
def web_page(kit):
    return kit.bytes(b"\n<!DOCTYPE html><html><body>404</body></html>", "model.h5")


@case("gzip")
def compressed(kit):
    return kit.bytes(gzip.compress(kit.keras.read_bytes()))


@case("the file is empty")
def empty(kit):
    return kit.bytes(b"")


@case("directory that holds a TensorFlow SavedModel")
def saved_model_folder(kit):
    folder = kit.folder / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    return folder


@case("is a directory")
def folder(kit):
    (kit.folder / "model.keras").mkdir()
    return kit.folder / "model.keras"


@case("a named pipe")
def pipe(kit):
    path = kit.folder / "model.keras"
    os.mkfifo(path)
    return path


@case("a device")
def device(kit):
    path = kit.folder / "model.keras"
    path.symlink_to("/dev/zero")
    return path


@case("a socket")
def unix_socket(kit):
    path = kit.folder / "s.keras"
    here = os.getcwd()
    os.chdir(kit.folder)  # the path of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind("s.keras")
    finally:
        os.chdir(here)
    return path


@case("cannot be read|no file")
def link_to_itself(kit):
    path = kit.folder / "model.keras"
    path.symlink_to(path)
    return path


# --- the tests -----------------------------------------------------------------------------------

MEGA = 2**20


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_refused(run, kit, tmp_path, monkeypatch, name):
    build, pattern = CASES[name]
    path = build(kit)
    monkeypatch.chdir(kit.folder)  # where modules that a file names would be found
    before = names(tmp_path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = run("inspect", path, "--json")
    seconds = time.perf_counter() - start
    refused(result, pattern)
    assert not kit.marker.exists()
    assert names(tmp_path) == before
    assert seconds < 20
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * unit < 600 * MEGA


@pytest.mark.parametrize("name", ["lambda_in_keras", "absurd_units", "traversal"])
@pytest.mark.parametrize("command", ["widen", "verify", "plan", "diff"])
def test_every_command_refuses(run, kit, parts, tmp_path, command, name):
    build, pattern = CASES[name]
    path = build(kit)
    before = names(tmp_path)
    rest = {
        "widen": ["first=8", "-o", tmp_path / "out.keras"],
        "plan": ["first=8"],
        "verify": [parts[2]],
        "diff": [parts[2]],
    }[command]
    refused(run(command, path, *rest), pattern)
    assert not kit.marker.exists()
    assert names(tmp_path) == before


def test_the_code_is_real(kit):
    """With safe mode off the marker appears: the tests above prove something."""
    path = lambda_in_keras(kit)
    with contextlib.suppress(Exception):  # it need not make a model
        keras.saving.load_model(path, safe_mode=False)(np.ones((1, 3), "float32"))
    assert kit.marker.exists()


def test_trust_runs_the_code(run, kit):
    path = kit.folder / "model.keras"
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.Dense(4, name="second"),
            keras.layers.Lambda(lambda x: x * 2, output_shape=(4,)),
            keras.layers.Dense(2),
        ]
    )
    model.save(path)
    refused(run("inspect", path), "--trust")
    result = run("inspect", path, "--trust", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [site["name"] for site in found["sites"]] == ["first"]
    assert any("Lambda" in one["reason"] for one in found["refused"])


def test_a_pipe_is_never_opened(kit):
    """Opening one would wait for a writer for ever."""
    path = pipe(kit)
    errors = []

    def look():
        try:
            model_format(path)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert "named pipe" in str(errors[0])


def test_no_permission(run, kit, monkeypatch):
    path = kit.zip()
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read anything
        monkeypatch.setattr(os, "access", lambda *_: False)
    refused(run("inspect", path), "Permission denied")


def test_a_file_packed_again_is_fine(run, kit):
    """Compression by itself is no attack."""
    path = kit.zip(compression=zipfile.ZIP_DEFLATED)
    assert run("inspect", path, "--json").exit_code == 0
