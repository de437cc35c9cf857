"""The product's name in the prompts of the user's own pictures."""
import sys

import pytest

from minilora import fit
from minilora.runs import product_name


class Terminal:
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True

    def write(self, text):
        return len(text)

    def flush(self):
        pass


@pytest.mark.parametrize("folder, noun", [
    ("Bottle", "bottle"), ("metal_nut", "metal nut"), ("coffee-mug", "coffee mug"),
    ("my phone photos", None), ("DCIM", None), ("good", None), ("2024-03-11", None),
    ("train images", None), ("xqzvbk", None), ("a b c screw", None), ("", None)])
def test_a_folder_names_a_product_only_if_its_words_are_no_folder_words(folder, noun):
    assert product_name.noun_in(folder) == noun


def test_without_a_terminal_nobody_is_asked_and_object_is_the_last_resort(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("asked"))
    assert product_name.choose_name("Bottle") == ("bottle", "the folder's name")
    name, reason = product_name.choose_name("IMG 2024")
    assert name == "object" and "IMG 2024" in reason


@pytest.mark.parametrize("answer, name", [("  red  gasket ", "red gasket"), ("", "bottle"),
                                          (EOFError, "bottle"), ("a\x1b[2Jb", "a[2Jb")])
def test_on_a_terminal_the_question_is_one_line_with_the_default(monkeypatch, answer, name):
    questions = []

    def reply(question):
        questions.append(question)
        if answer is EOFError:
            raise EOFError
        return answer
    monkeypatch.setattr("builtins.input", reply)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert product_name.choose_name("bottle")[0] == name
    assert len(questions) == 1 and "[bottle]" in questions[0] and "\n" not in questions[0]


def test_a_given_name_is_used_and_own_pictures_are_all_taken(tmp_path):
    folder = tmp_path / "phone photos"
    options = fit.parse(["--good", str(folder), "--class-name", "red nut"])
    assert options.class_name == "red nut" and options.shots == "all"
    assert fit.parse(["--good", str(folder)]).class_name == "object"
    assert fit.parse(["--good", str(folder), "--class", "pump"]).class_name == "pump"
    assert fit.parse(["--good", str(folder), "--shots", "4"]).shots == 4


def test_names_of_a_data_set_stay_as_they_are():
    options = fit.parse(["--class", "metal_nut", "--data", "x"])
    assert options.class_name is None and options.shots == 8
