"A training process is killed several times, goes on each time, and ends bit-equal to one that was never disturbed"
import os, signal, subprocess, sys, time
from pathlib import Path

CHILD = '''
import sys, torch
from pathlib import Path
from promptgan.callbacks import EMA, Saver
from promptgan.learner import Batches, GANLearner
from promptgan.networks import Discriminator, Generator
torch.set_num_threads(1); torch.manual_seed(1)
G, D = Generator(8, 4, 4, (8, 8, 8), 32), Discriminator(8, (8, 8, 8), 32, 8)
g = torch.Generator().manual_seed(0)
imgs, emb = torch.randint(0, 255, (24, 3, 32, 32), generator=g).byte(), torch.randn(24, 8, generator=g)
class Tick:
    def after_step(self, learn): print(learn.step, flush=True)
folder = Path(sys.argv[1])
learn = GANLearner(G, D, Batches(imgs, emb, torch.ones(24, dtype=torch.long), 4, bs=4), warmup=3, cbs=[EMA(), Saver(folder, steps=2), Tick()], precision='fp32')
learn.fit(steps=60, resume=True)
torch.save(torch.cat([p.detach().flatten() for n in (learn.G, learn.D, learn.G_ema) for p in n.parameters()]), folder/'end.pt')
'''

def start(folder): return subprocess.Popen([sys.executable, '-c', CHILD, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})

def test_killed_run_is_bit_equal(tmp_path):
    import torch
    whole, cut = tmp_path/'whole', tmp_path/'cut'; whole.mkdir(); cut.mkdir(); kills = 0
    quiet = start(whole)                                      # runs beside the others
    for at in (7, 22, 41):                                    # read a few steps, then kill without warning
        p = start(cut)
        for line in p.stdout:
            if int(line) >= at: p.send_signal(signal.SIGKILL); break
        p.wait(); kills += p.returncode == -signal.SIGKILL
    assert kills == 3
    assert start(cut).wait() == 0 and quiet.wait() == 0
    assert torch.equal(torch.load(whole/'end.pt', weights_only=True), torch.load(cut/'end.pt', weights_only=True))
