"Pictures per second of one training step of each preset, with FLOPs and the share of this machine's 3x3-convolution rate, measured in the same run"
import argparse, time
import torch, torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from promptgan.core import default_device, pick_precision
from promptgan.demo import conv_rate
from promptgan.learner import Batches, GANLearner, Recipe
from promptgan.networks import PRESETS, build_networks, step_mflop, summary
from promptgan.train import RECIPES

p = argparse.ArgumentParser(description=__doc__); p.add_argument('--presets', nargs='*', default=['nano', 'small', 'medium', 'dcgan'])
p.add_argument('--plain', action='store_true', help='dcgan also in the loop that courses teach, the two by turns')
p.add_argument('--seconds', type=float, default=10.); p.add_argument('--bs', type=int, nargs='+', default=[32], help='batch sizes; --plain takes the first'); a = p.parse_args()
device = default_device(); precision = pick_precision(device); g = torch.Generator().manual_seed(0)
print(f'{device}, {torch.get_num_threads()} threads, {precision}'); base = None

class Pairs(Dataset):
    "Pictures and words one by one, as a course has them"
    def __init__(self, imgs, emb): self.imgs, self.emb = imgs, emb
    def __len__(self): return len(self.imgs)
    def __getitem__(self, i): return self.imgs[i].float()/127.5 - 1, self.emb[i]

def plain_loop(G, D, imgs, emb, seconds):
    "DCGAN with words as in a course: fp32, planes, a DataLoader, every pass of its own. Pictures per second"
    opt_d, opt_g = (torch.optim.Adam(n.parameters(), 2e-4, betas=(.5, .999)) for n in (D, G)); n, t0 = -3, 0.
    bce = lambda x, y: F.binary_cross_entropy_with_logits(x, torch.full_like(x, y)); loader = DataLoader(Pairs(imgs, emb), a.bs[0], shuffle=True, drop_last=True)
    while n <= 0 or time.perf_counter() - t0 < seconds:
        for real, words in loader:
            real, words = real.to(device), words.to(device); z = torch.randn(len(real), G.z, device=device)
            fake = G(words, z); opt_d.zero_grad()
            (bce(D(real, words), 1.) + .5*bce(D(real, words.roll(1, 0)), 0.) + .5*bce(D(fake.detach(), words), 0.)).backward(); opt_d.step()
            opt_g.zero_grad(); bce(D(fake, words), 1.).backward(); opt_g.step(); n += 1
            if n == 0: t0 = time.perf_counter()                 # three steps warm up
            if n > 0 and time.perf_counter() - t0 >= seconds: break
    return n*a.bs[0]/(time.perf_counter() - t0)

def through_learner(name, imgs, emb, seconds, bs):
    "The same through our learner, with the settings of the preset. The learner after it, with pictures and seconds"
    G, D = build_networks(name); recipe = Recipe(**RECIPES.get(name, {}).get('recipe', {}))
    learn = GANLearner(G, D, Batches(imgs, emb, torch.ones(len(imgs), dtype=torch.long), G.z, bs), recipe, device=device).fit(steps=3)
    learn.seconds = learn.images = 0; return learn.fit(minutes=seconds/60)

if a.plain:
    imgs = torch.randint(0, 255, (256, 3, 64, 64), generator=g).byte(); emb = torch.randn(256, 256, generator=g); ratios = []
    for turn in range(3):
        plain = plain_loop(*(n.to(device) for n in build_networks('dcgan')), imgs, emb, a.seconds); learn = through_learner('dcgan', imgs, emb, a.seconds, a.bs[0])
        ours = learn.images/learn.seconds; ratios.append(ours/plain); print(f'dcgan    plain loop {plain:6.1f} img/s, through the learner {ours:6.1f} img/s: {ratios[-1]:.2f}x')
    print(f'dcgan    {sorted(ratios)[1]:.2f}x the plain loop (median of three turns)')
for name, bs in [(name, bs) for name in a.presets for bs in a.bs]:
    size = PRESETS[name]['size']; imgs = torch.randint(0, 255, (256, 3, size, size), generator=g).byte(); emb = torch.randn(256, 256, generator=g)
    learn = through_learner(name, imgs, emb, a.seconds, bs); img_s = learn.images/learn.seconds
    mflop, rate = step_mflop(*summary(learn.G, learn.D)), conv_rate(precision, device); base = base or img_s
    print(f'{name:8} batches of {bs:3} {1e3*bs/img_s:6.1f} ms {img_s:7.1f} img/s  {img_s/base:5.2f}x  {mflop:7.0f} MFLOP/picture  {img_s*mflop/1e3:6.0f} of {rate:6.0f} GFLOP/s ({img_s*mflop/1e3/rate:.0%})')
