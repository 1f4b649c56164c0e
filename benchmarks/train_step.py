"Pictures per second of one training step of each preset, with FLOPs and the share of this machine's 3x3-convolution rate, measured in the same run"
import argparse, time
import torch
from promptgan.core import default_device, pick_precision
from promptgan.demo import conv_rate
from promptgan.learner import Batches, GANLearner, Recipe
from promptgan.networks import PRESETS, build_networks, step_mflop, summary
from promptgan.train import RECIPES

p = argparse.ArgumentParser(description=__doc__); p.add_argument('--presets', nargs='*', default=['nano', 'small', 'dcgan'])
p.add_argument('--seconds', type=float, default=10.); p.add_argument('--bs', type=int, default=32); a = p.parse_args()
device = default_device(); precision = pick_precision(device); g = torch.Generator().manual_seed(0)
print(f'{device}, {torch.get_num_threads()} threads, {precision}'); base = None
for name in a.presets:
    G, D = build_networks(name); size = PRESETS[name]['size']
    imgs = torch.randint(0, 255, (256, 3, size, size), generator=g).byte(); emb = torch.randn(256, 256, generator=g)
    recipe = Recipe(**RECIPES.get(name, {}).get('recipe', {})); batches = Batches(imgs, emb, torch.ones(256, dtype=torch.long), G.z, a.bs)
    learn = GANLearner(G, D, batches, recipe, device=device).fit(steps=3); learn.seconds = learn.images = 0
    learn.fit(minutes=a.seconds/60); img_s = learn.images/learn.seconds
    mflop, rate = step_mflop(*summary(learn.G, learn.D)), conv_rate(precision, device); base = base or img_s
    print(f'{name:8} {img_s:7.1f} img/s  {img_s/base:5.2f}x  {mflop:7.0f} MFLOP/picture  {img_s*mflop/1e3:6.0f} of {rate:6.0f} GFLOP/s ({img_s*mflop/1e3/rate:.0%})')
