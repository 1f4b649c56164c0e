"A pipeline and a data set that are made in a second: for tests of what stands around a model"
import torch
from promptgan.datasets import scenes
from promptgan.networks import build_networks
from promptgan.pipeline import TextToImagePipeline
from promptgan.text import TextEncoder, TextModel, Tokenizer

def tiny_words(captions, e=32, seed=0):
    "Words that were never trained, but that tell one caption from another"
    tok = Tokenizer.train(captions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed); return TextModel(tok, TextEncoder(len(tok), e=e, d=12, m=16))

def tiny_pipeline(n=200, seed=0):
    "A nano pipeline that has its first guess from `n` scenes, and these scenes"
    data = scenes(n, split='train', seed=seed); captions = [c for cs in data.captions for c in cs]
    words = tiny_words(captions, seed=seed); G, D = build_networks('nano', words.e, seed)
    G.start_from(data.imgs, words(captions).cpu(), torch.tensor([len(c) for c in data.captions]))
    return TextToImagePipeline(words, G.eval().requires_grad_(False), D.eval().requires_grad_(False), dict(data='scenes')), data
