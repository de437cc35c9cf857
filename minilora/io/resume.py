"""Save the state of a training run to a file, so that an interrupted run can continue.

Claim: the next step depends only on the trained parameters, AdamW's moments, the position in the
learning-rate schedule and the state of the random generator.  With these four restored, training
continues bit for bit (on one CPU; a GPU does not fix the order of its sums).

Left out: what comes before training; it is computed again, from the same seed.
"""
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilora.io.files import TensorFileError, load_tensors, save_tensors
from minilora.io.schema import (ListOf, MapOf, Number, OneOf, Record, SchemaError, TensorOf, Text,
                                Whole, check)
from minilora.io.text import shown

MAX_RESUMED = 10**6             # steps
LOSS_ENTRY = OneOf(Whole(0, 10**12), Number())
RESUME_SCHEMA = Record({
    "mark": Text(64),                   # the fingerprint
    "losses": ListOf(OneOf(LOSS_ENTRY, MapOf(LOSS_ENTRY)), 1, MAX_RESUMED),
    "trained": Record({}, others=True), "optimiser": MapOf(Record({}, others=True)),
    "rate": Number(0, 1e6), "betas": ListOf(Number(0, 0.999999), 2, 2),
    "generator": TensorOf(((1, 10**5),), torch.uint8)})


class ResumePoint:
    """The saved state of one training run, in a file that is overwritten from time to time.

    fingerprint: hash of all inputs of the training run; a file with another one is ignored.
    every: seconds between two saves.
    """

    def __init__(self, path: str | Path, fingerprint: str, every: float = 10.0) -> None:
        self.path, self.fingerprint, self.every = Path(path), fingerprint, every
        self.last = time.monotonic()

    def load(self) -> dict | None:
        """The saved state, or None if there is none of this training run.

        A file that is damaged, or not as `save` writes it, is not an error: training then starts
        from the beginning.
        """
        try:
            saved = load_tensors(self.path)
            check(saved, RESUME_SCHEMA, "resume point")
        except (TensorFileError, SchemaError):
            return None
        return saved if saved["mark"] == self.fingerprint else None

    def restore(self, trained: Sequence[Tensor], optimiser: torch.optim.Optimizer,
                generator: torch.Generator,
                schedule: torch.optim.lr_scheduler.LRScheduler | None = None) -> list[Any]:
        """Set these four to the saved state.  Returns the losses so far; [] if nothing is saved.

        Raises ValueError, and changes nothing, if the state does not fit these tensors.
        """
        saved = self.load()
        if saved is None:
            return []
        try:
            check(saved["trained"], Record(numbered([fitting(t) for t in trained])), "trained")
            check(saved["optimiser"], Record({}, optional=numbered([
                Record({"step": TensorOf(()), "exp_avg": fitting(p), "exp_avg_sq": fitting(p)})
                for group in optimiser.param_groups for p in group["params"]])), "optimiser")
            if any(moments["step"] < 1 for moments in saved["optimiser"].values()):
                raise ValueError("optimiser: expected steps from 1 on")
            torch.Generator().set_state(saved["generator"])         # RuntimeError if it is no state
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{shown(self.path)} does not fit this training: {shown(error)}; "
                             "remove it to start from the beginning") from error
        for number, parameter in enumerate(trained):
            parameter.data.copy_(saved["trained"][str(number)])
        moments = {int(number): values for number, values in saved["optimiser"].items()}
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        for group in optimiser.param_groups:
            group.update(lr=saved["rate"], betas=tuple(saved["betas"]))
        if schedule is not None:
            schedule.load_state_dict({**schedule.state_dict(), "last_epoch": len(saved["losses"])})
        generator.set_state(saved["generator"])
        return saved["losses"]

    def save(self, trained: Sequence[Tensor], optimiser: torch.optim.Optimizer,
             generator: torch.Generator, losses: list[Any]) -> None:
        """Write the state, unless the last save was less than `every` seconds ago.

        losses: one entry for each finished step, a number or {name: number}.
        """
        if time.monotonic() - self.last < self.every:
            return
        group = optimiser.param_groups[0]
        state = optimiser.state_dict()["state"]
        save_tensors(self.path, {
            "mark": self.fingerprint, "trained": numbered(trained), "losses": losses,
            "optimiser": {str(number): dict(moments) for number, moments in state.items()},
            "rate": group["lr"], "betas": list(group["betas"]),
            "generator": generator.get_state()})
        self.last = time.monotonic()


def fitting(tensor: Tensor) -> TensorOf:
    """The schema of a value for this tensor: its shape and dtype."""
    return TensorOf(tuple(tensor.shape), tensor.dtype)


def numbered(values: Sequence[Any]) -> dict[str, Any]:
    """{"0": first value, "1": second value, ...}."""
    return {str(number): value for number, value in enumerate(values)}


def demo() -> None:
    """Train ten steps without a stop, and again with a stop after six; the weights are equal."""
    import tempfile
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

    def train(last, resume=None):
        """A toy training up to step `last`, with a schedule and random batches."""
        weight, generator = torch.nn.Parameter(torch.ones(3)), torch.Generator().manual_seed(1)
        optimiser = torch.optim.AdamW([weight], lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=10)
        losses = resume.restore([weight], optimiser, generator, schedule) if resume else []
        for _ in range(len(losses), last):
            batch = rows[torch.randperm(20, generator=generator)[:4]]
            optimiser.zero_grad()
            loss = (batch @ weight).square().mean()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
            if resume:
                resume.save([weight], optimiser, generator, losses)
        print(f"after {last:2d} steps: {[round(w, 4) for w in weight.tolist()]}")
        return weight.detach()

    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = train(10)
        train(6, ResumePoint(f"{folder}/unfinished.safetensors", "demo", every=0))
        resumed = train(10, ResumePoint(f"{folder}/unfinished.safetensors", "demo", every=0))
    print(f"with and without the stop, equal: {torch.equal(uninterrupted, resumed)}")


if __name__ == "__main__":
    demo()
