"""Rows of the memory table: what is trained, in which precision, with or without checkpointing.

A row with a counterpart in the library peft names it; it is measured in the same way, with peft's
layers in the same tower and the same loss.  It has no prediction: `formulas.predicted` gives None.
Every row except the probe also trains the context vectors of the prompts, as minilora does.
LoRA, LoRA-FA and DoRA have rank 4 on q, k, v and out.

Left out: batch sizes (one table has one); ranks and targets (`steps.LORA`, python -m bench.memory
--methods).
"""
from dataclasses import dataclass

from bench.steps import FULL, PLAIN, REUSE


@dataclass(frozen=True)
class Row:
    """method, peft: keys of `steps.METHODS`;  precision: "float32" or "bfloat16", by autocast;
    checkpointing: "on" or "off"."""
    name: str
    method: str
    precision: str = "float32"
    checkpointing: str = "off"
    peft: str | None = None


ROWS = (
    Row("full, both towers", "full, both towers"),
    Row("full", FULL),
    Row("full, bf16", FULL, "bfloat16"),
    Row("full, checkpointing", FULL, checkpointing="on"),
    Row("full, bf16, checkpointing", FULL, "bfloat16", "on"),
    Row("BitFit", "BitFit"),
    Row("LoRA, all blocks", "LoRA, all blocks", peft="peft LoRA, all blocks"),
    Row("LoRA-FA, all blocks", "LoRA-FA, all blocks", peft="peft LoRA-FA, all blocks"),
    Row("DoRA, all blocks", "DoRA, all blocks", peft="peft DoRA, all blocks"),
    Row("LoRA, all blocks, checkpointing", "LoRA, all blocks", checkpointing="on",
        peft="peft LoRA, all blocks"),
    Row("LoRA, last 4 (minilora, plain step)", PLAIN, peft="peft LoRA, last third"),
    Row("LoRA, last 4, checkpointing", PLAIN, checkpointing="on", peft="peft LoRA, last third"),
    Row("LoRA, last 4, reuse (minilora)", REUSE),
    Row("ladder side network", "ladder"),
    Row("CoOp", "CoOp"),
    Row("linear probe", "linear probe"))
