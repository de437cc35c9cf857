"""Stand-ins for tests: pictures of smooth noise in folders, and a teacher with random weights."""
import json

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from minilora.pretrain.teacher import random_teacher

CLASS_NAMES = ("BACKGROUND_noise", "sea_horse", "tick")


def write_photographs(root, each=10, size=(240, 224)):
    """Saves `each` smooth random pictures in one folder for each class."""
    generator = torch.Generator().manual_seed(0)
    for class_name in CLASS_NAMES:
        (root / class_name).mkdir(parents=True)
        for k in range(each):
            coarse = torch.rand(1, 3, 12, 12, generator=generator)
            picture = F.interpolate(coarse, size[::-1], mode="bicubic").clamp(0, 1)[0]
            Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()).save(
                root / class_name / f"{k:02d}.png")
    return root


def write_teacher(path):
    """Saves the network with random weights in the format of the published file."""
    teacher = random_teacher(torch.Generator().manual_seed(0))
    arrays = {f"{n:02d}.{kind}": getattr(teacher, f"{kind}{n}").numpy()
              for n in range(len(teacher.layers)) for kind in ("weight", "bias")}
    np.savez(path, table=np.array(json.dumps(teacher.layers)), **arrays)
    return path
