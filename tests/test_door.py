"""What comes in at the door."""

import numpy as np
import torch
from examples import pair

from ppvae.door import enter


def test_the_order_of_bytes_does_not_matter():
    made, x = pair("vae", likelihood="normal"), np.arange(18.0).reshape(2, 9)
    assert torch.equal(enter(made, x.astype(">f8")).values["x"], enter(made, x).values["x"])
