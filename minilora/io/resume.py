"""A training that was stopped goes on where it was.

Claim: the next step depends on the trained numbers, AdamW's moments, the place in the schedule and
the state of the generator, and on nothing else.  Whoever keeps these four continues bit for bit (on
one CPU; GPUs add up in an order of their own).

Leaves out: what comes before training; it is computed again, from the same seed.
"""
import time
from pathlib import Path

import torch

from minilora.io.files import TensorFileError, load_tensors, save_tensors


class ResumePoint:
    """A resume point in a file.

    mark: fingerprint of everything that the training depends on; a point of another is not used.
    every: seconds between two points.
    """

    def __init__(self, path, mark, every=10.0):
        self.path, self.mark, self.every, self.last = Path(path), mark, every, time.monotonic()

    def saved(self):
        """What was kept of this very training, or None.

        A file that is damaged is no reason to fail: training starts from the beginning.
        """
        try:
            saved = load_tensors(self.path)
        except TensorFileError:
            return None
        return saved if saved.get("mark") == self.mark else None

    def restore(self, trained, optimiser, schedule, generator):
        """Brings all four to where the training was.  Returns the losses so far, or []."""
        saved = self.saved()
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

    def keep(self, trained, optimiser, generator, losses):
        """Writes a point, unless the last is younger than `every` seconds."""
        if time.monotonic() - self.last < self.every:
            return
        group = optimiser.param_groups[0]
        save_tensors(self.path, {
            "mark": self.mark, "trained": list(trained), "losses": losses,
            "optimiser": dict(optimiser.state_dict()["state"]), "rate": group["lr"],
            "betas": list(group["betas"]), "generator": generator.get_state()})
        self.last = time.monotonic()


def demo():
    """Ten steps in one go, and six and four with a stop between them."""
    import tempfile
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

    def train(last, resume=None):
        """Steps of a toy training up to number `last`; a schedule and random batches, as usual."""
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
                resume.keep([weight], optimiser, generator, losses)
        print(f"after {last:2d} steps: {[round(w, 4) for w in weight.tolist()]}")
        return weight.detach()

    with tempfile.TemporaryDirectory() as folder:
        whole = train(10)
        train(6, ResumePoint(f"{folder}/unfinished.pt", "demo", every=0))
        resumed = train(10, ResumePoint(f"{folder}/unfinished.pt", "demo", every=0))
    print(f"ten steps, and six and four resumed, are equal: {torch.equal(whole, resumed)}")


if __name__ == "__main__":
    demo()
