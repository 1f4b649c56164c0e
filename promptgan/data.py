import hashlib
from dataclasses import dataclass, field, replace
import torch
from PIL import Image
from promptgan.core import show_grid
@dataclass
class TextImageData:
    imgs: torch.Tensor; captions: list; split: list; names: list
    attrs: dict = field(default_factory=dict); info: dict = field(default_factory=dict); langs: list = None; report: list = field(default_factory=list)
    def __len__(self): return len(self.imgs)
    @property
    def size(self): return self.imgs.shape[-1]
    def subset(self, idxs):
        idxs = [int(i) for i in idxs]; t = torch.tensor(idxs, dtype=torch.long); pick = lambda l: [l[i] for i in idxs]
        return replace(self, imgs=self.imgs[t], captions=pick(self.captions), split=pick(self.split), names=pick(self.names), attrs={k: v[t] for k, v in self.attrs.items()}, langs=self.langs and pick(self.langs))
    def _by(self, s): return self.subset([i for i, x in enumerate(self.split) if x == s])
    train = property(lambda s: s._by('train')); valid = property(lambda s: s._by('valid')); test = property(lambda s: s._by('test')); heldout = property(lambda s: s._by('heldout'))
    def in_language(self, lang):
        keep = [i for i, l in enumerate(self.langs) if lang in l]; new = self.subset(keep)
        new.captions = [[c for c, l in zip(cs, ls) if l == lang] for cs, ls in zip(new.captions, new.langs)]; new.langs = [[lang]*len(c) for c in new.captions]; return new
    def floats(self, idxs=slice(None)): return self.imgs[idxs].float()/127.5 - 1
    def pick_captions(self, idxs, generator=None): return [self.captions[i][0 if generator is None else int(torch.randint(len(self.captions[i]), (1,), generator=generator))] for i in idxs]
    def fingerprint(self):
        h = hashlib.sha256(self.imgs.numpy().tobytes()); h.update(repr((self.captions, self.split)).encode()); return h.hexdigest()
    def show_batch(self, n=12, generator=None): return show_grid([self.imgs[i] for i in range(min(n, len(self)))], [c[0] for c in self.captions[:n]])
