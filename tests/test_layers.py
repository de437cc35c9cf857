"""Imports point downwards: what a module uses stands below it, and no two use each other."""
import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPO

PACKAGE = Path(REPO, "minilora")
# From the floor up.  A name is a folder or a module on top; names of one line do not import each
# other.
FLOORS = ("io",
          "charts",
          "attention auroc bpe lora losses prompts training_steps",
          "clip_resnet text vit",
          "clip",
          "memory_bank anomaly_map",
          "coop",
          "data metrics synthetic rows",
          "config features",
          "checkpoint train calibration detector_base",
          "detector",
          "toy_detector",
          "report scenes",
          "prediction",
          "runs",
          "fit predict",
          "compare explain figures onnx_export reproduce serve",
          "export",
          "mae pretrain",
          "baselines search",
          "belts")
PLACES = [name for floor in FLOORS for name in floor.split()]
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
           for path in sorted(PACKAGE.rglob("*.py"))
           if path.name not in ("__init__.py", "__main__.py")}


def imported(path):
    """Modules of the package that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minilora":
            inside = node.module.removeprefix("minilora").removeprefix(".")
            for name in (alias.name for alias in node.names):
                whole = f"{inside}.{name}".removeprefix(".")
                found.add(whole if whole in MODULES else inside)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("minilora.") for alias in node.names
                      if alias.name.startswith("minilora.")}
    return found & MODULES.keys()


def upward(modules):
    """Pairs (module, what it imports from the same floor or one above, another place)."""
    floor = {name: k for k, names in enumerate(FLOORS) for name in names.split()}
    pairs = [(name, used) for name, path in modules.items() for used in sorted(imported(path))]
    return [(name, used) for name, used in pairs
            if name.split(".")[0] != used.split(".")[0]
            and floor[used.split(".")[0]] >= floor[name.split(".")[0]]]


def test_every_module_has_a_floor():
    assert {name.split(".")[0] for name in MODULES} == set(PLACES)


def test_no_module_imports_upwards():
    assert upward(MODULES) == []


def test_no_modules_import_each_other():
    graph = {name: imported(path) for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_an_upward_import_would_be_seen(tmp_path):
    path = tmp_path / "lora.py"
    path.write_text("def demo():\n    from minilora import detector\n")
    assert upward({"lora": path}) == [("lora", "detector")]
