"Two processes give the gradients of one, batch norm included"
import os, socket, subprocess, sys

CHILD = '''
import os, sys, torch, torch.distributed as dist
from promptgan.learner import Batches, Recipe, gan_step
from promptgan.networks import Discriminator, Generator
from promptgan.train import start_processes
start_processes(); torch.set_num_threads(1)
rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
torch.manual_seed(1); G, D = Generator(8, 4, 4, (8, 8, 8), 32).double(), Discriminator(8, (8, 8, 8), 32, 8).double()
g = torch.Generator().manual_seed(0)
imgs, emb = torch.randint(0, 255, (24, 3, 32, 32), generator=g).byte(), torch.randn(24, 8, generator=g)
b = Batches(imgs, emb, torch.ones(24, dtype=torch.long), 4, bs=8, family=4)(3, rank=rank, world=world)
b.real, b.emb, b.wrong, b.z, b.prompts = (t.double() for t in (b.real, b.emb, b.wrong, b.z, b.prompts))
class Keep:
    "An optimizer that keeps the gradients instead of taking a step"
    def __init__(self, net): self.net = net
    def zero_grad(self, **kw):
        for p in self.net.parameters(): p.grad = None
    def step(self): self.grads = torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])
og, od = Keep(G), Keep(D)
# the contest compares the pictures of one process with each other, so it is left out of the comparison
assert gan_step(G, D, Recipe(align=0.), b, og, od)[1]
if rank == 0: torch.save((og.grads, od.grads, G.start.norm.norm.running_var), sys.argv[1])
'''

def run(path, world):
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(world), 'GLOO_SOCKET_IFNAME': 'lo'}
    ps = [subprocess.Popen([sys.executable, '-c', CHILD, str(path)], env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}) for r in range(world)]
    assert [p.wait(timeout=120) for p in ps] == [0]*world

def test_two_processes_equal_one(tmp_path):
    import torch
    run(tmp_path/'one.pt', 1); run(tmp_path/'two.pt', 2)
    one, two = (torch.load(tmp_path/f'{n}.pt', weights_only=True) for n in ('one', 'two'))
    for a, b in zip(one, two): assert (a - b).abs().max() <= 1e-5*a.abs().max(), (a - b).abs().max()
