"""The product's name in the prompts, for the user's own pictures.

Claim: CLIP's text features are those of "a photo of a damaged bottle".  With a folder's name that
is no noun ("my phone photos") the sentence means something else, and "object" is better.

    --class-name, or --class     the name, as given
    on a terminal                the user is asked, in one line
    else                         the folder's name if it may be a noun, else "object"

Whether a name may be a noun: its words are letters only, none is a usual word of folders, and the
last one is a single token of CLIP's vocabulary.  Left out: grammar; "running" counts as a noun.
"""
import argparse
import re
import sys

from minilora.bpe import CONTEXT, default_tokenizer
from minilora.io.text import shown
from minilora.prompts import prompt_ensemble

GENERAL_NAME = "object"
QUESTION = "What is on the pictures, in one word or two? [{}] "
MOST_WORDS = 3
FOLDER_WORDS = frozenset("""
    a album all and bad batch best camera capture class copy data dataset day dcim defect
    desktop dir documents downloads editing examples export file files final folder for from
    gallery good home image images img inbox input iphone items line lot media misc month my new
    ng nok normal of ok old one other others our out output own part phone photo photographs
    photos pic pics picture pictures pixels positive product products project raw recent
    reference run sample samples scan screenshots selected session set shoot shot shots
    snapshots some stuff temp test testing the these this tmp today train training two unsorted
    untitled upload uploads user users valid validation version video week work www year
    yesterday""".split())


# ---- names that are given -----------------------------------------------------------------------

def class_folder(text: str) -> str:
    """A `type=` for argparse: the name of a class, which is also the name of a folder."""
    if not text.strip() or text in (".", "..") or set(text) & {"/", "\\", "\0"}:
        raise argparse.ArgumentTypeError(f"'{shown(text)}': expected the name of one folder, "
                                         "without a path; a class is named after its folder")
    return text


def prompt_name(text: str) -> str:
    """A `type=` for argparse: the name of a product, for the prompts."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"'{shown(text)}': expected words that can be printed")
    return text


def check_class_name(name: str) -> None:
    """Raise ValueError, before any work, if the longest prompt with this name does not fit."""
    sentences = [sentence for state in prompt_ensemble(name) for sentence in state]
    longest = 2 + max(len(default_tokenizer().encode(text)) for text in sentences)  # START, END
    if longest > CONTEXT:
        raise ValueError(f"class {shown(name, 60)} makes prompts of {longest} tokens, expected at "
                         f"most {CONTEXT}; give a shorter name with --class-name")


# ---- names that are chosen ----------------------------------------------------------------------

def noun_in(folder_name: str) -> str | None:
    """A folder's name as the words of a product, in lower case; None if it is no noun."""
    words = re.split(r"[_\-\s]+", folder_name.strip().lower())
    if not 0 < len(words) <= MOST_WORDS or not all(re.fullmatch("[a-z]{2,20}", w) for w in words) \
            or FOLDER_WORDS.intersection(words) or len(words[-1]) < 3:
        return None
    return " ".join(words) if len(default_tokenizer().encode(words[-1])) == 1 else None


def choose_name(folder_name: str) -> tuple[str, str]:
    """(name for the prompts, where it comes from); on a terminal the user is asked."""
    noun = noun_in(folder_name)
    if all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        answer = ask_user(noun or GENERAL_NAME)
        if answer:
            return answer, "as you said"
    if noun:
        return noun, "the folder's name"
    return GENERAL_NAME, f"the folder's name, {shown(folder_name, 40)}, is taken for no noun"


def ask_user(default: str) -> str:
    """The user's answer; "" for the default or at the end of the input."""
    try:
        answer = input(QUESTION.format(default))
    except EOFError:
        return ""
    return " ".join("".join(c for c in answer if c.isprintable()).split())


def demo() -> None:
    """Which names of folders are used in the prompts."""
    for name in ("metal_nut", "Bottle", "my phone photos", "DCIM", "2024-03-11", "Schraube"):
        print(f"{name:16s} -> {noun_in(name) or GENERAL_NAME}")


if __name__ == "__main__":
    demo()
