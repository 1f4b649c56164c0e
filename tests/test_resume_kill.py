"A training process is killed several times, goes on each time, and ends bit-equal to one that was never disturbed"
import os, subprocess, sys
import pytest

pytest.importorskip('resource', reason='needs fork')

SERVER = '''
import os, signal, sys, torch
from pathlib import Path
from promptgan.callbacks import EMA, Saver
from promptgan.learner import Batches, GANLearner
from promptgan.networks import Discriminator, Generator
torch.set_num_threads(1)

class Tick:
    def __init__(self, pipe): self.pipe = pipe
    def after_step(self, learn): os.write(self.pipe, bytes([learn.step]))

def train(folder, pipe):
    torch.manual_seed(1)
    G, D = Generator(8, 4, 4, (8, 8, 8), 32), Discriminator(8, (8, 8, 8), 32, 8)
    g = torch.Generator().manual_seed(0)
    imgs, emb = torch.randint(0, 255, (24, 3, 32, 32), generator=g).byte(), torch.randn(24, 8, generator=g)
    batches = Batches(imgs, emb, torch.ones(24, dtype=torch.long), 4, bs=4)
    learn = GANLearner(G, D, batches, warmup=3, cbs=[EMA(), Saver(folder, steps=2), Tick(pipe)], precision='fp32')
    learn.fit(steps=60, resume=True)
    torch.save(torch.cat([p.detach().flatten() for n in (learn.G, learn.D, learn.G_ema) for p in n.parameters()]), folder/'end.pt')

def start(folder, kill_at=None):
    "A new process that has nothing but the modules and the folder; how it ended"
    r, w = os.pipe(); pid = os.fork()
    if not pid:
        code = 1
        try: train(folder, w); code = 0
        finally: os._exit(code)
    os.close(w)
    while step := os.read(r, 1):                              # reads its steps, then kills without warning
        if kill_at and step[0] >= kill_at: os.kill(pid, signal.SIGKILL); break
    os.close(r); return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

whole, cut = (Path(sys.argv[1])/n for n in ('whole', 'cut'))
print(*(start(cut, at) for at in (7, 22, 41)), start(cut), start(whole))
'''

def test_killed_run_is_bit_equal(tmp_path):
    import torch
    whole, cut = tmp_path/'whole', tmp_path/'cut'; whole.mkdir(); cut.mkdir()
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', SERVER, str(tmp_path)], env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ['-9', '-9', '-9', '0', '0'], done.stdout + done.stderr
    assert torch.equal(torch.load(whole/'end.pt', weights_only=True), torch.load(cut/'end.pt', weights_only=True))
