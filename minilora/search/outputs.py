"""The outputs of a query: the files of --json-file, --sheet and --page, and speech.

Claim: nothing found is an answer as well.  The JSON file is then written with an empty list and the
best event below the floor, sheet and page with the printed line instead of pictures.

Left out: what they look like (search/results.py).
"""
import argparse
import json
from typing import Any

from minilora.io.output import atomic_output, check_output
from minilora.search import speech
from minilora.search.events import Event
from minilora.search.floor import Answer
from minilora.search.results import contact_sheet, nothing_line, peak_frames, result_page


def check_outputs(options: argparse.Namespace) -> None:
    """Raise ValueError, before any work, if an output would replace what is not its own."""
    outputs = [p for p in (options.json, options.sheet, options.page, options.speak_to) if p]
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise ValueError("--json-file, --sheet, --page and --speak-to: expected different files, "
                         "found the same twice; give each its own")
    for path in outputs:
        check_output(path, "query", options.like)


def note_of(words: str, answer: Answer) -> str:
    """The line for an answer without events, "" for others.  words: the query in words."""
    below = answer.below
    return "" if answer.found else nothing_line(words, below, below and answer.floor_of(below),
                                                bool(answer.curves))


def answer_record(words: str, answer: Answer) -> dict[str, Any]:
    """The content of the JSON file.  words: the query in words."""
    def record(event: Event) -> dict[str, Any]:
        return {**event._asdict(), "floor": answer.floor_of(event)}
    return {"query": words, "events": [record(event) for event in answer.found],
            "below": answer.below and record(answer.below)}


def write_outputs(words: str, answer: Answer, bits: int, options: argparse.Namespace) -> None:
    """Write what the options ask for.  bits: of the index."""
    def output(path, mode="wb"):
        return atomic_output(path, "query", mode, options.like)
    if options.json:
        with output(options.json, "w") as file:
            json.dump(answer_record(words, answer), file, indent=1, allow_nan=False)
    pictures = peak_frames(answer.found, bits) if options.sheet or options.page else {}
    note = note_of(words, answer)
    if options.sheet:
        with output(options.sheet) as file:
            contact_sheet(answer.found, pictures, note=note).save(file, "PNG")
    if options.page:
        with output(options.page, "w") as file:
            file.write(result_page(words, answer.found, answer.curves, pictures, answer.floors,
                                   note))
    if options.speak or options.speak_to:
        speech.speak(speech.spoken_summary(words, answer.found), options.speak_to, options.like)


def demo() -> None:
    """The content of the JSON file of a query that found nothing."""
    import torch
    below, times = Event("belt.mp4", 3, 5, 4, 0.21), torch.arange(8, dtype=torch.float64)
    answer = Answer([], below, {"belt.mp4": (times, times)}, {"belt.mp4": torch.full((8,), 0.24)})
    print(json.dumps(answer_record("a violin", answer), indent=1))


if __name__ == "__main__":
    demo()
