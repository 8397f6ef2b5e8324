"""Threads and processes beside PyTorch's own: its setting counts, and no child hangs or dies."""

import pytest
from helpers import run_python

torch = pytest.importorskip("torch")

SETUP = """
import os, sys
import torch
import nbfagg

a = torch.randn(8, 2000, 30, generator=torch.Generator().manual_seed(0))
wanted = nbfagg.fagg(a, workers=1)

def gradient():
    x = a.clone().requires_grad_()
    (nbfagg.fagg(x) ** 2).sum().backward()
    return x.grad
"""


def test_the_number_of_threads_is_pytorchs():
    code = (
        SETUP
        + """
from nbfagg.cpu import team
asked = []
size = team.size
team.size = lambda workers, nbytes: asked.append(workers) or size(workers, nbytes)
for count in (1, 2):
    torch.set_num_threads(count)
    print(torch.equal(nbfagg.fagg(a), wanted), asked.pop())
nbfagg.fagg(a, workers=3)
print(asked.pop())
"""
    )
    assert run_python(code) == "True 1\nTrue 2\n3\n"


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_forked_child(layer):
    """Both thread pools at work in the parent, then a call and a gradient in the child."""
    code = (
        SETUP
        + """
torch.randn(1000, 1000) @ torch.randn(1000, 1000)
a.exp().sum()
before = nbfagg.fagg(a), gradient()
child = os.fork()
if child == 0:
    torch.set_num_threads(2)
    same = torch.equal(nbfagg.fagg(a), before[0])
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
same = torch.equal(nbfagg.fagg(a), wanted) and torch.equal(gradient(), before[1])
print(os.waitstatus_to_exitcode(status), same)
"""
    )
    assert run_python(code, NUMBA_THREADING_LAYER=layer) == "0 True\n"


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader(start):
    code = f"""
import torch
import nbfagg

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, number):
        a = torch.randn(1, 3000, 20, generator=torch.Generator().manual_seed(number))
        return nbfagg.fagg(a)[0]

if __name__ == "__main__":
    here = torch.stack([Rows()[i] for i in range(8)])
    loader = torch.utils.data.DataLoader(
        Rows(), batch_size=2, num_workers=2, multiprocessing_context={start!r}, timeout=120
    )
    print(torch.equal(torch.cat(list(loader)), here))
"""
    assert run_python(code, as_file=True) == "True\n"


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_torch_multiprocessing(start):
    code = f"""
import torch
import torch.multiprocessing as mp
import nbfagg

def work(number, results):
    a = torch.randn(4, 3000, 20, generator=torch.Generator().manual_seed(number))
    results[number] = nbfagg.fagg(a)

if __name__ == "__main__":
    results = torch.zeros(2, 4, 3000).share_memory_()
    here = torch.zeros(2, 4, 3000)
    for number in range(2):
        work(number, here)
    mp.start_processes(work, (results,), nprocs=2, start_method={start!r})
    print(torch.equal(results, here))
"""
    assert run_python(code, as_file=True) == "True\n"


def test_nothing_grows_with_the_logits():
    """Beyond inputs, results and gradient: less than 8 MiB, forward and backward."""
    code = """
import resource
import torch
import nbfagg

def train(x):
    alpha = nbfagg.fagg(x)
    (alpha**2).sum().backward()

train(torch.randn(4, 512, 8, 64, requires_grad=True))
x = torch.randn(16, 1024, 8, 64, requires_grad=True)
x.grad = torch.zeros_like(x)
high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x.grad = None
train(x)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - high
print(grown < 8 * 1024 or grown)
"""
    assert run_python(code) == "True\n"
