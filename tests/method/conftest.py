import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for `literal`, under every import mode of pytest


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors here are tiny: a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
