"promptgan demo is stopped by a signal in each of its phases; --resume then ends with all files"
import json, os, signal
import pytest
from PIL import Image
import promptgan.demo, promptgan.learner, promptgan.train
from promptgan.cli import main
from promptgan.pipeline import TextToImagePipeline

FILES = 'config.json data.png evaluation.json final.png report.html pipeline/config.json words/text_config.json'.split()

WORDS = []

@pytest.fixture
def folder(tmp_path):
    "24 pictures of eight things, with captions"
    (tmp_path/'photos').mkdir(); rows = []
    for i in range(24):
        colour, name = ['red', 'green', 'blue', 'yellow'][i % 4], ['disk', 'field'][i//4 % 2]
        Image.new('RGB', (64, 64), colour).point(lambda v: max(0, v - i)).save(tmp_path/'photos'/f'{i}.png')
        rows.append(dict(file_name=f'{i}.png', text=f'a {colour} {name} number {i}'))
    (tmp_path/'photos'/'metadata.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return tmp_path/'photos'

@pytest.fixture
def demo(folder, tmp_path, monkeypatch, capsys):
    "Runs `promptgan demo`; returns its exit status and what it said"
    exam = promptgan.demo.evaluate
    monkeypatch.setattr(promptgan.demo, 'evaluate', lambda *a, **kw: exam(*a, **{**kw, 'judge_steps': 2}))
    fit, learn, known = promptgan.train.TextGANLearner.fit, promptgan.train.train_text_model, WORDS
    def few(self, minutes, resume): return fit(self, steps=5, resume=resume)         # instead of so many seconds
    monkeypatch.setattr(promptgan.train.TextGANLearner, 'fit', few)
    def once(*a, **kw): known[:] = known or [learn(*a, **kw)]; return known[0]       # the same captions each time
    monkeypatch.setattr(promptgan.train, 'train_text_model', once)
    old = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    def run(*args):
        with pytest.raises(SystemExit) as e:
            main(['demo', '--data', str(folder), *['--preset', 'nano']*('--resume' not in args), '--minutes', '1', '--out', str(tmp_path/'run'),
                  '--device', 'cpu', '--precision', 'fp32', *args])
        return e.value.code, ''.join(capsys.readouterr())
    yield run
    for s, handler in old.items(): signal.signal(s, handler)

def stop_in(monkeypatch, place, name, sig, at=1):
    "The first `at`-th call of `place.name` gets a signal"
    f, calls = getattr(place, name), []
    def g(*args, **kw):
        calls.append(1)
        if len(calls) == at: os.kill(os.getpid(), sig)
        return f(*args, **kw)                            # where the signal did not end it
    monkeypatch.setattr(place, name, g)

PHASES = dict(words=(promptgan.train, 'train_text_model', signal.SIGTERM, 1),
              words_by_ctrl_c=(promptgan.train, 'train_text_model', signal.SIGINT, 1),
              first_guess=(promptgan.train, 'Batches', signal.SIGTERM, 1),
              training=(promptgan.learner, 'gan_step', signal.SIGTERM, 3),
              training_by_ctrl_c=(promptgan.learner, 'gan_step', signal.SIGINT, 2),
              exam=(promptgan.demo, 'evaluate', signal.SIGTERM, 1), report=(promptgan.demo, 'write_report', signal.SIGINT, 1))

SLOW = pytest.mark.skipif(not os.environ.get('PROMPTGAN_SLOW'), reason='takes minutes; set PROMPTGAN_SLOW=1 to run it')
TRAINED = ('training', 'training_by_ctrl_c', 'exam', 'report')

@pytest.mark.skipif(os.name == 'nt', reason='Windows has other signals')
@pytest.mark.parametrize('phase', [p if p in ('words', 'training', 'exam') else pytest.param(p, marks=SLOW) for p in PHASES])
def test_stopped_demo_goes_on(phase, demo, tmp_path, monkeypatch):
    place, name, sig, at = PHASES[phase]; stop_in(monkeypatch, place, name, sig, at); run = tmp_path/'run'
    status, said = demo()
    assert status == (143 if sig == signal.SIGTERM else 130) and 'Traceback' not in said, said
    assert not (run/'report.html').exists()
    if phase.startswith('training'): assert '--resume' in said
    known = (run/'pipeline'/'config.json').exists()
    steps = TextToImagePipeline.from_pretrained(run, 'cpu').info['steps'] if known else 0
    assert known == (phase in TRAINED)                    # what was trained is saved before anything ends
    status, said = demo('--resume')
    assert status == 0 and 'all done' in said, said
    assert [f for f in FILES if not (run/f).is_file()] == []
    info = TextToImagePipeline.from_pretrained(run, 'cpu').info
    assert info['steps'] > steps >= (1 if phase in TRAINED else 0)                 # it went on, not anew
    assert json.loads((run/'evaluation.json').read_text())['images'] == info['images']

@SLOW
def test_finished_run_is_kept_and_can_go_on(demo, tmp_path):
    assert demo()[0] == 0
    before = (tmp_path/'run'/'report.html').read_bytes(); status, said = demo()
    assert status == 1 and '--resume' in said and (tmp_path/'run'/'report.html').read_bytes() == before
    assert demo('--resume')[0] == 0

def test_exam_of_words_that_were_never_learned(tmp_path, monkeypatch):
    "The only validation captions are of unknown words: the exam falls back to the training pictures, and says so"
    import torch
    from promptgan.data import TextImageData
    fit = promptgan.train.TextGANLearner.fit
    monkeypatch.setattr(promptgan.train.TextGANLearner, 'fit', lambda self, minutes, resume: fit(self, steps=3, resume=resume))
    words = ['a red disk', 'a blue disk', 'a green field', 'a red field']*3 + ['zebra', 'quagga']
    data = TextImageData(torch.randint(0, 255, (14, 3, 64, 64)).byte(), [[w] for w in words], ['train']*12 + ['valid']*2, list(map(str, range(14))))
    said = []; numbers = promptgan.demo.demo(data, out=tmp_path/'run', preset='nano', precision='fp32', say=said.append, judge_steps=2, progress=False)
    told = '\n'.join(said); assert '12 prompts that training saw' in told and numbers['mae']['n'] == 12
    assert (tmp_path/'run'/'report.html').exists() and 'zebra' not in (tmp_path/'run'/'report.html').read_text()
    one = data.subset([0, 12]); words = promptgan.train.TextModel.from_pretrained(tmp_path/'run'/'words'); said.clear()
    assert len(promptgan.demo._exam_data(one, words, said.append)) == 1 and 'too few pictures' in said[-1]
