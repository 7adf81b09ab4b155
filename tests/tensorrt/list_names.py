"""Lists the names that NVIDIA's Python bindings have, by class, as JSON; the results lie under ``names/``.

::

    pip download --no-deps -d dl 'tensorrt-cu13-bindings==11.*' 'tensorrt-cu12-bindings==10.*'
    python tests/tensorrt/list_names.py dl/tensorrt_cu12_bindings-10*.whl > tests/tensorrt/names/tensorrt-10.json
    python tests/tensorrt/list_names.py dl/tensorrt_cu13_bindings-11*.whl > tests/tensorrt/names/tensorrt-11.json
    python tests/tensorrt/list_names.py tensorrt_rtx > tests/tensorrt/names/tensorrt-rtx-1.json

The bindings of full TensorRT are on PyPI, the libraries that they load are not. A dozen empty functions in their
place, compiled here, are enough to import the bindings and look at them; nothing can be called.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SHOW = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
def names(thing):
    return sorted(n for n in dir(thing) if not n.startswith("_"))
classes = {n: names(getattr(trt, n)) for n in names(trt) if isinstance(getattr(trt, n), type)}
print(json.dumps({"version": trt.__version__, "module": names(trt), "classes": classes}))
"""

UNUSED = re.compile(r"(I?Plugin|I\w+Layer$|IPlugin)")
"""Classes left out: layers are made by the parser, and there are no plugins."""


def list_names(module: str, search: Path | None = None, libraries: Path | None = None) -> dict[str, object]:
    """What a module shows when a fresh Python imports it."""
    variables = dict(os.environ)
    if search and libraries:
        variables |= {"PYTHONPATH": str(search), "LD_LIBRARY_PATH": str(libraries)}
    shown = subprocess.run([sys.executable, "-c", SHOW, module], env=variables, capture_output=True, check=True)
    found = json.loads(shown.stdout)
    found["classes"] = {name: names for name, names in found["classes"].items() if not UNUSED.match(name)}
    return dict(found)


def from_wheel(wheel: Path) -> dict[str, object]:
    """Names from a wheel of bindings without their libraries."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked, libraries = Path(folder, "wheel"), Path(folder, "libraries")
        libraries.mkdir()
        zipfile.ZipFile(wheel).extractall(unpacked)
        (binary,) = unpacked.glob("*/*.so")
        stub_libraries(binary, libraries)
        return list_names(binary.parent.name, unpacked, libraries)


def stub_libraries(binary: Path, folder: Path) -> None:
    """Libraries with every plain C function that the bindings import, each doing nothing."""
    dynamic = subprocess.run(["readelf", "-d", binary], capture_output=True, text=True, check=True).stdout
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", binary], capture_output=True, text=True, check=True
    ).stdout
    functions = re.findall(r" U ((?:create|get|initLib)\w*(?:Infer|Nv|PluginRegistry)\w*)$", symbols, re.MULTILINE)
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in functions))
    for library in re.findall(r"\[(libnv[\w.]+)\]", dynamic):
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, source], check=True)


def to_text(found: dict[str, object]) -> str:
    """JSON with a line for each class, so that a new version's changes can be read in a diff."""
    classes = found["classes"]
    assert isinstance(classes, dict)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(names)}" for name, names in sorted(classes.items()))
    head = f'{{\n "version": {json.dumps(found["version"])},\n "module": {json.dumps(found["module"])},\n'
    return head + f' "classes": {{\n{lines}\n }}\n}}\n'


if __name__ == "__main__":
    given = sys.argv[1]
    sys.stdout.write(to_text(from_wheel(Path(given)) if given.endswith(".whl") else list_names(given)))
