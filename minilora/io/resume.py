"""Save the state of a training run to a file, so that an interrupted run can continue.

Claim: the next step depends only on the trained parameters, AdamW's moments, the position in the
learning-rate schedule and the state of the random generator.  With these four restored, training
continues bit for bit (on one CPU; a GPU does not fix the order of its sums).

Left out: what comes before training; it is computed again, from the same seed.
"""
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from minilora.io.files import TensorFileError, load_tensors, save_tensors


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

        A damaged file is not an error: training then starts from the beginning.
        """
        try:
            saved = load_tensors(self.path)
        except TensorFileError:
            return None
        return saved if saved.get("mark") == self.fingerprint else None     # "mark": fingerprint

    def restore(self, trained: Sequence[Tensor], optimiser: torch.optim.Optimizer,
                schedule: torch.optim.lr_scheduler.LRScheduler,
                generator: torch.Generator) -> list[float]:
        """Set these four to the saved state.  Returns the losses so far; [] if nothing is saved."""
        saved = self.load()
        if saved is None:
            return []
        for parameter, value in zip(trained, saved["trained"], strict=True):
            parameter.data.copy_(value)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": saved["optimiser"]})
        for group in optimiser.param_groups:
            group.update(lr=saved["rate"], betas=tuple(saved["betas"]))
        schedule.load_state_dict({**schedule.state_dict(), "last_epoch": len(saved["losses"])})
        generator.set_state(saved["generator"])
        return saved["losses"]

    def save(self, trained: Sequence[Tensor], optimiser: torch.optim.Optimizer,
             generator: torch.Generator, losses: list[float]) -> None:
        """Write the state, unless the last save was less than `every` seconds ago."""
        if time.monotonic() - self.last < self.every:
            return
        group = optimiser.param_groups[0]
        save_tensors(self.path, {
            "mark": self.fingerprint, "trained": list(trained), "losses": losses,
            "optimiser": dict(optimiser.state_dict()["state"]), "rate": group["lr"],
            "betas": list(group["betas"]), "generator": generator.get_state()})
        self.last = time.monotonic()


def demo() -> None:
    """Train ten steps without a stop, and again with a stop after six; the weights are equal."""
    import tempfile
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

    def train(last, resume=None):
        """A toy training up to step `last`, with a schedule and random batches."""
        weight, generator = torch.nn.Parameter(torch.ones(3)), torch.Generator().manual_seed(1)
        optimiser = torch.optim.AdamW([weight], lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=10)
        losses = resume.restore([weight], optimiser, schedule, generator) if resume else []
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
        train(6, ResumePoint(f"{folder}/unfinished.pt", "demo", every=0))
        resumed = train(10, ResumePoint(f"{folder}/unfinished.pt", "demo", every=0))
    print(f"with and without the stop, equal: {torch.equal(uninterrupted, resumed)}")


if __name__ == "__main__":
    demo()
