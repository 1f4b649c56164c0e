"A run folder goes on with its own words, settings and precision; what differs is told"
import warnings
import pytest, torch
from promptgan import InputError, text_gan_learner
from tinymodel import tiny_pipeline

@pytest.fixture(scope='module')
def tiny(): return tiny_pipeline(64)

def learner(data, out, **kw): return text_gan_learner(data, 'nano', out=out, bs=4, progress=False, **{'precision': 'fp32', **kw})

ASK = ['a red house', 'a blue square']

def test_given_words_are_kept_in_the_run(tiny, tmp_path):
    pipe, data = tiny; learner(data, tmp_path, words=pipe.words).fit(steps=2)
    assert learner(data, tmp_path, resume=True).words(ASK).equal(pipe.words(ASK))     # not learned anew, as `train --resume` would

def test_words_of_other_data_are_not_taken(tiny, tmp_path):
    "An earlier start was stopped between words and first step"
    pipe, data = tiny; learner(data, tmp_path, words=pipe.words); (tmp_path/'config.json').unlink()
    other = data.subset(range(8)); other.captions = [[f'eine Katze {i}'] for i in range(8)]
    for resume in (True, False):
        assert 'katze' in learner(other, tmp_path, resume=resume).words.tokenizer.words; (tmp_path/'config.json').unlink()

def test_other_settings_are_told(tiny, tmp_path):
    pipe, data = tiny; learner(data, tmp_path, words=pipe.words, lr=1e-3).fit(steps=2)
    with pytest.warns(UserWarning, match='not be bit-exact: lr'): learner(data, tmp_path, resume=True, lr=2e-3)
    with warnings.catch_warnings(): warnings.simplefilter('error'); learner(data, tmp_path, resume=True, lr=2e-3)

@pytest.mark.parametrize('first, then', [('bf16', 'fp32'), ('fp32', 'bf16')])
def test_precision_is_that_of_the_run(first, then, tiny, tmp_path):
    "Whatever is fastest on this machine, one of the two is something else"
    pipe, data = tiny; begun = learner(data, tmp_path, words=pipe.words, precision=first, device='cpu').fit(steps=1).precision
    for asked, name in (('auto', begun.name), (then, then)):
        assert learner(data, tmp_path, resume=True, precision=asked, device='cpu').precision.name.startswith(name)

@pytest.mark.parametrize('saved', [True, False])
def test_a_stop_is_told(saved, tiny, tmp_path, capsys):
    pipe, data = tiny
    class Stop:
        def after_step(self, learn): learn.stop = 'test'
    learn = learner(data, tmp_path if saved else None, words=pipe.words); learn.cbs.append(Stop()); learn.fit(steps=9)
    told = capsys.readouterr().out; assert told.count('\n') == 1 and 'stopped at step 1 (test)' in told and ('resume=True' in told) == saved

def test_networks_follow_the_size_of_the_pictures(tmp_path):
    from promptgan.datasets import scenes
    from promptgan.networks import build_networks, summary
    pipe, data = tiny_pipeline(64); small = scenes(40, size=32, split='train')
    learn = learner(small, tmp_path/'small', words=pipe.words).fit(steps=2); assert learn.draw(['a red house']).shape[-2:] == (32, 32)
    from promptgan import TextToImagePipeline; assert TextToImagePipeline.from_pretrained(tmp_path/'small').size == 32
    for size in (32, 128, 256): assert [c.rows[-1][0] != '' for c in summary(*build_networks('small', size=size))] == [True, True]
    for size, preset in ((48, 'small'), (16, 'nano'), (32, 'dcgan')):
        with pytest.raises(InputError, match='power of 2|dcgan draws'): text_gan_learner(scenes(4, size=size, split='train'), preset, out=tmp_path/'no', progress=False)
    assert not (tmp_path/'no').exists()                                              # refused before any words were learned
