"""The rows of the result table: which parts of the method make the score.

Claim: a table with the last row alone would hide what each part contributes.  "lora-only" differs
from "zero-shot" by LoRA alone, "lora-off" from "adapted" by LoRA alone, and "text" from "adapted"
by the memory alone.
Left out: how a row is computed (`Detector.map_and_score` in detector.py).
"""
from typing import NamedTuple


class Row(NamedTuple):
    """One row of a result table."""
    memory: bool                        # add the memory map
    prompts: str | None                 # "hand-written", "learned", or no text map
    lora: bool                          # image tower with LoRA
    description: str


ROWS = {"zero-shot": Row(False, "hand-written", False, "hand-written prompts, no shots"),
        "lora-only": Row(False, "hand-written", True, "hand-written prompts, LoRA, no memory"),
        "memory": Row(True, None, False, "memory of good patches alone"),
        "text": Row(False, "learned", True, "learned prompts and LoRA, no memory"),
        "lora-off": Row(True, "learned", False, "memory and learned prompts, LoRA switched off"),
        "adapted": Row(True, "learned", True, "all together")}


def demo() -> None:
    """The parts of each row."""
    print("row        memory  prompts       LoRA")
    for name, row in ROWS.items():
        print(f"{name:10s} {'yes' if row.memory else 'no':6s}  {row.prompts or 'none':12s}  "
              f"{'yes' if row.lora else 'no'}")


if __name__ == "__main__":
    demo()
