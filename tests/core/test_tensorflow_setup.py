"""What a command shows of TensorFlow's import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def stderr_of(code: str, level: str = "2", **more: str) -> str:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": level, **more}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    ).stderr


def test_tensorflow_is_imported_and_used_without_a_line():
    code = "from tfrec_limaml.tensorflow_setup import import_tensorflow; import_tensorflow(); import tensorflow as tf; tf.constant(2.0) + 1"  # noqa: E501
    assert stderr_of(code) == ""


@pytest.mark.parametrize("switch", ["enable", "disable"])
def test_the_collector_is_off_during_the_import_and_as_before_after_it(tmp_path, switch):
    (tmp_path / "tensorflow.py").write_text(
        "import gc, sys, types\nprint(gc.isenabled(), file=sys.stderr)\n"
        "config = types.SimpleNamespace(list_physical_devices=lambda: [])\n"
    )
    code = f"""
import gc, sys
from tfrec_limaml.tensorflow_setup import import_tensorflow

gc.{switch}()
import_tensorflow()
print(gc.isenabled(), gc.get_freeze_count() > 1000, file=sys.stderr)
"""
    expected = f"False\n{switch == 'enable'} True\n"
    assert stderr_of(code, PYTHONPATH=str(tmp_path)) == expected


def test_lines_of_others_and_later_ones_are_shown(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import sys, types\n"
        "print('I0000 00:00:1795342674.313012   17615 x.cc:1] noise', file=sys.stderr, "
        "flush=True)\n"
        "print('a warning of somebody else', file=sys.stderr, flush=True)\n"
        "config = types.SimpleNamespace(list_physical_devices=lambda: [])\n"
    )
    code = "import sys; from tfrec_limaml.tensorflow_setup import import_tensorflow; import_tensorflow(); print('later', file=sys.stderr)"  # noqa: E501
    assert stderr_of(code, PYTHONPATH=str(tmp_path)) == "a warning of somebody else\nlater\n"


def test_a_second_thread_during_the_import_does_not_lose_standard_error(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import time, types\nconfig = types.SimpleNamespace(list_physical_devices=lambda: "
        "time.sleep(0.5) or [])\n"
    )
    code = """
import sys, threading, time
from tfrec_limaml.tensorflow_setup import import_tensorflow

class Slow:  # the second thread comes before the module is known
    def find_spec(name, *_):
        time.sleep(0.5 if name == "tensorflow" else 0)

sys.meta_path.insert(0, Slow)
threads = [threading.Thread(target=import_tensorflow) for _ in range(2)]
for thread in threads:
    thread.start()
    time.sleep(0.2)
for thread in threads:
    thread.join()
print("later", file=sys.stderr)
"""
    assert stderr_of(code, PYTHONPATH=str(tmp_path)) == "later\n"


@pytest.mark.parametrize(("level", "body"), [("2", "raise ImportError('broken')"), ("0", "pass")])
def test_everything_is_shown_where_the_import_fails_or_where_it_was_asked_for(
    level, body, tmp_path
):
    noise = "I0000 00:00:1795342674.313012   17615 x.cc:1] noise"
    (tmp_path / "tensorflow.py").write_text(
        f"import sys\nprint({noise!r}, file=sys.stderr, flush=True)\n{body}\n"
    )
    code = "from tfrec_limaml.tensorflow_setup import import_tensorflow; import_tensorflow(); import tensorflow"  # noqa: E501
    assert noise in stderr_of(code, level, PYTHONPATH=str(tmp_path))


@pytest.mark.parametrize(
    ("keras", "package", "order"),
    [
        ("True", "keras", "keras later"),
        ("False", "keras", "later keras"),
        ("True", "sklearn", "later sklearn"),
    ],
)
def test_a_package_that_a_process_may_not_need_is_imported_when_it_does(
    tmp_path, keras, package, order
):
    (tmp_path / f"{package}.py").write_text(
        f"import sys\nprint('{package}', file=sys.stderr, flush=True)\n"
    )
    (tmp_path / "tensorflow.py").write_text(
        "import importlib.util, types\n"
        f"assert importlib.util.find_spec('{package}').origin.endswith('{package}.py')\n"
        f"try:\n    import {package}\nexcept ImportError:\n    pass\n"
        "config = types.SimpleNamespace(list_physical_devices=lambda: [])\n"
    )
    code = f"""
import sys
from tfrec_limaml.tensorflow_setup import import_tensorflow

import_tensorflow(keras={keras})
print("later", file=sys.stderr, flush=True)
import {package}
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert stderr_of(code, PYTHONPATH=path).split() == order.split()


def test_keras_itself_does_not_import_scikit_learn_and_others_still_can():
    code = """
import sys
from tfrec_limaml.tensorflow_setup import import_tensorflow

import_tensorflow()
print("keras" in sys.modules, "sklearn" in sys.modules, file=sys.stderr)
from sklearn.linear_model import LogisticRegression
print(LogisticRegression.__name__, file=sys.stderr)
"""
    assert stderr_of(code).split() == ["True", "False", "LogisticRegression"]
