"""The rules of the house that a program can check: names, sizes, type hints, exercises, folders."""
import ast
import re
from collections import defaultdict

import pytest
from conftest import REPO
from test_layers import MODULES, PACKAGE

MECHANISMS = ("bpe", "prompts", "attention", "vit", "clip_resnet", "text", "clip", "lora", "coop",
              "losses", "memory_bank", "anomaly_map", "auroc")
SAME_EVERYWHERE = {"demo", "main", "parser", "TRAIN_CONFIG"}    # they mean the same in each module
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}


def top_level_names(tree):
    """Functions, classes and constants that a module defines."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (part.id for target in node.targets for part in ast.walk(target)
                        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))


def functions(tree, inside=""):
    """(dotted name, node) of functions on top and of methods, not of nested ones."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{inside}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield inside + node.name, node


def without_hint(node):
    """Parameters of a function that lack a type hint, and "return" if its result lacks one."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs,
             *filter(None, (arguments.vararg, arguments.kwarg))]
    missing = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
    return missing + ["return"] * (node.returns is None)


def test_a_name_on_top_of_a_module_means_one_thing_in_the_whole_package():
    homes = defaultdict(set)
    for module, tree in TREES.items():
        for name in set(top_level_names(tree)) - SAME_EVERYWHERE:
            if not name.startswith("_"):
                homes[name].add(module)
    assert {name: sorted(found) for name, found in homes.items() if len(found) > 1} == {}


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_have_type_hints(module):
    found = {name: without_hint(node) for name, node in functions(TREES[module])
             if name.split(".")[-1].startswith("__") or "_" != name.split(".")[-1][0]}
    assert {name: missing for name, missing in found.items() if missing} == {}


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module):
    lines = MODULES[module].read_text("utf-8").splitlines()
    assert len(lines) <= 260 and max(map(len, lines)) <= 100
    long = {name: node.end_lineno - node.lineno + 1 for name, node in functions(TREES[module])}
    assert not {name: count for name, count in long.items() if count > 60}


def test_the_mechanisms_together_are_read_in_an_afternoon():
    lines = {name: len(MODULES[name].read_text("utf-8").splitlines()) for name in MECHANISMS}
    assert sum(lines.values()) <= 2000, lines


@pytest.mark.parametrize("module", MECHANISMS)
def test_a_mechanism_names_its_source_and_ends_with_exercises(module):
    text = MODULES[module].read_text("utf-8")
    assert re.search(r"https://github\.com/\S+/\S+", ast.get_docstring(TREES[module])), "the code"
    assert 2 <= len(set(re.findall(r"# Exercise (\d)", text))) <= 3


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py")))
def test_a_folder_says_what_it_holds_where_to_start_and_what_is_not_there(folder):
    text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text("utf-8")))
    assert "Start with `" in text and "Not here: " in text
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (PACKAGE / folder / name).is_file(), f"{name} is named and is not there"


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file() and "py.typed" in (REPO / "setup.py").read_text("utf-8")
