"Two processes give the gradients of one, batch norm included, and end together; a dashboard follows what torchrun started"
import os, socket, subprocess, sys, time

PATIENCE = float(os.environ.get('PROMPTGAN_PATIENCE', 1))   # times the usual waiting, for a machine that is busy with other things

CHILD = '''
import os, sys, torch, torch.distributed as dist
from promptgan.learner import Batches, GANLearner, Recipe, gan_step
from promptgan.networks import DCDiscriminator, DCGenerator, Discriminator, Generator
from promptgan.train import start_processes
start_processes(); torch.set_num_threads(1)
rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
torch.manual_seed(1); G, D = Generator(8, 4, 4, (8, 8, 8), 32).double(), Discriminator(8, (8, 8, 8), 32, 8).double()
g = torch.Generator().manual_seed(0)
imgs, emb = torch.randint(0, 255, (24, 3, 32, 32), generator=g).byte(), torch.randn(24, 8, generator=g)
emb[1::2] = emb[::2]                                   # pictures with the same words, also across processes
words = torch.randn(9, 8, generator=g)                 # prompts without pictures
batches = Batches(imgs, emb, torch.ones(24, dtype=torch.long), 4, bs=8, family=4, prompts=words)
b = batches(3, rank=rank, world=world); assert b.same.shape == (8, 8) and b.same.sum() > 8
b.real, b.emb, b.wrong, b.z, b.prompts, b.rivals = (t.double() for t in (b.real, b.emb, b.wrong, b.z, b.prompts, b.rivals))
class Keep:
    "An optimizer that keeps the gradients instead of taking a step"
    def __init__(self, net): self.net = net
    def zero_grad(self, **kw):
        for p in self.net.parameters(): p.grad = None
    def step(self): self.grads = torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])
og, od = Keep(G), Keep(D)
assert gan_step(G, D, Recipe(), b, og, od)[1]
torch.manual_seed(2); classic = DCGenerator(8, 4, 8, 8).double(), DCDiscriminator(8, 8, 8).double(); b.real = b.real.repeat(1, 1, 2, 2)
cg, cd = map(Keep, classic); assert gan_step(*classic, Recipe('bce', align=0., match=0., pixel=0.), b, cg, cd)[1]   # batch norm of the whole batch
torch.manual_seed(rank); nets = Generator(8, 4, 4, (8, 8), 16), Discriminator(8, (8, 8), 16, 8)
learn = GANLearner(*nets, batches, precision='fp32')  # each process made other weights: those of the first are taken
first = torch.cat([t.double().flatten() for n in nets for t in n.state_dict().values()]); mine = first.clone()
if world > 1: dist.broadcast(first, 0)
assert first.equal(mine)
class Odd:
    "The last process has a fast clock, and may have to stop"
    def __init__(self, at): self.at = at
    def after_step(self, l):
        if l.rank == world - 1: l.seconds += .1; l.stop = 'SIGTERM' if l.step == self.at else None
for at, budget in ((None, dict(minutes=.01)), (3, dict(steps=50))):   # they end together all the same
    nets = Generator(8, 4, 4, (8, 8, 8), 32), Discriminator(8, (8, 8, 8), 32, 8)
    learn = GANLearner(*nets, batches, precision='fp32', cbs=[Odd(at)]).fit(**budget); ends = torch.tensor([learn.step, -learn.step])
    if world > 1: dist.all_reduce(ends, dist.ReduceOp.MAX)
    assert ends[0] == -ends[1] == (at or ends[0]) > 0 and bool(learn.stop) == bool(at), (learn.step, ends, learn.stop)
if rank == 0: torch.save((og.grads, od.grads, G.start.norm.norm.running_var, cg.grads, cd.grads), sys.argv[1])
'''

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def run(path, world):
    port = free_port()
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(world), 'GLOO_SOCKET_IFNAME': 'lo'}
    ps = [subprocess.Popen([sys.executable, '-c', CHILD, str(path)], env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}) for r in range(world)]
    assert [p.wait(timeout=120) for p in ps] == [0]*world

def test_two_processes_equal_one(tmp_path):
    "All parts of the losses, the contest of captions over both processes included"
    import torch
    run(tmp_path/'one.pt', 1); run(tmp_path/'two.pt', 2)
    one, two = (torch.load(tmp_path/f'{n}.pt', weights_only=True) for n in ('one', 'two'))
    for a, b in zip(one, two): assert (a - b).abs().max() <= 1e-5*a.abs().max(), (a - b).abs().max()

def test_dashboard_follows_torchrun(tmp_path):
    "Rows come while two processes train; the dashboard has nothing but the run folder"
    from PIL import Image
    from promptgan.dashboard import Dashboard
    from promptgan.watch import trainer_of
    photos, out = tmp_path/'photos', tmp_path/'run'; photos.mkdir()
    for name in ('red', 'green', 'blue', 'gold'):
        Image.new('RGB', (64, 64), name).save(photos/f'{name}.png'); (photos/f'{name}.txt').write_text(f'a {name} square')
    line = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', 2, '--master-addr', '127.0.0.1', '--master-port', free_port(),
            '-m', 'promptgan.train', photos, '--preset', 'nano', '--kimg', .16, '--batch-size', 4, '--precision', 'fp32', '--out', out]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}; log = (tmp_path/'log').open('w+')
    process = subprocess.Popen(list(map(str, line)), env=env, stdout=log, stderr=log); end = time.monotonic() + 240*PATIENCE
    try:
        while trainer_of(out) is None and process.poll() is None and time.monotonic() < end: time.sleep(.05)
        assert trainer_of(out), (tmp_path/'log').read_text()
        seen, d = set(), Dashboard(out, every=.05); assert d.busy and d.go.disabled        # it watches by itself, and cannot start
        while process.poll() is None and time.monotonic() < end: seen.add(len(d.rows)); time.sleep(.02)
        assert process.wait(1) == 0, (tmp_path/'log').read_text()
    finally: process.kill(); process.wait(); log.close()
    d.stop_button.click(); assert d.wait(10) and not d.error; d.refresh()
    assert any(0 < n < 2 for n in seen) and [r['step'] for r in d.rows] == [20, 40] and d.rows[-1]['images'] == 160
    page = d.to_html(); assert all(w in page for w in ('D(real)', 'D(fake)', 'D(wrong words)', 'prompt accuracy', 'lr ', 'img_s', 'step 40', 'not running'))
    assert len(d.moments) > 0 and 'a red square' in page
