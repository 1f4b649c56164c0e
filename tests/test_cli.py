"What a script can rely on: exit statuses, one line for an error, nothing overwritten, clean output without a terminal"
import os, re, signal, subprocess, sys, time, types, promptgan
import pytest
from PIL import Image
from promptgan import base, cli

@pytest.fixture
def call(capsys):
    "A function that runs a command: exit status, stdout, stderr"
    def run(*args):
        status = cli._run(list(map(str, args)))
        return status, *capsys.readouterr()
    return run

@pytest.fixture
def module(monkeypatch):
    "A function that puts a made-up module in the place of one of ours"
    def put(name, **content):
        fake = types.ModuleType(f'promptgan.{name}'); vars(fake).update(content)
        monkeypatch.setitem(sys.modules, f'promptgan.{name}', fake)
        monkeypatch.setattr(promptgan, name, fake, raising=False)   # `from promptgan import name` looks here first
    return put

class Result:
    "What a pipeline gives"
    def __init__(self, n, unknown): self.images, self.unknown = [Image.new('RGB', (8, 8))]*n, unknown
    def grid(self, ncol): return types.SimpleNamespace(image=self.images[0])

@pytest.fixture
def pipe(module):
    "A pipeline that remembers what it was asked"
    asked = []
    class Fake:
        @classmethod
        def from_pretrained(cls, name, device=None): asked.append(name); return cls()
        def __call__(self, prompts, n, noise, truncation):
            asked.append((prompts, n, [g.initial_seed() for g in noise], truncation))
            return Result(len(prompts)*n, {prompts[0]: ['zebra']})
        def interpolate(self, a, b, steps, noise): asked.append((a, b, steps)); return Result(1, {})
    module('pipeline', TextToImagePipeline=Fake)
    return asked

# --- errors

ERRORS = [c for c in vars(base).values() if isinstance(c, type) and issubclass(c, base.PromptganError)]

@pytest.mark.parametrize('error', ERRORS, ids=lambda c: c.__name__)
def test_our_errors_are_one_line(error, call, module):
    def demo(*args, **kw): raise error('no pictures in a\nb\x1b[31m: give another folder')
    module('demo', demo=demo)
    assert call('demo') == (1, '', 'Error: no pictures in a b [31m: give another folder\n')
    status, _, err = call('demo', '--debug')
    assert status == 1 and 'Traceback' in err and err.endswith('give another folder\n')

def test_errors_of_the_system_are_one_line(call, module):
    def demo(*args, **kw): raise PermissionError(13, 'Permission denied', '/there')
    module('demo', demo=demo)
    assert call('demo') == (1, '', 'Error: Permission denied: /there\n')

def test_bugs_are_not_hidden(call, module):
    def demo(*args, **kw): raise KeyError('bug')
    module('demo', demo=demo)
    with pytest.raises(KeyError): call('demo')

USAGE = ['nonsense', 'demo extra', 'demo --nonsense', 'demo --minutes', 'demo --minutes many', 'demo --minutes -1', 'demo --minutes nan',
         'demo --minutes inf', 'demo --seed -1', 'demo --seed 1.5', 'demo --precision fp16', 'train', 'train x --preset huge',
         'train x --minutes 1 --kimg 1', 'train x --kimg 1 --epochs 1', 'train x --lr 0', 'train x --lr nan', 'train x --lr-decay step',
         'train x --size 0', 'train x --batch-size 1', 'train x --save-every 0', 'train x --kimg inf', 'generate', 'generate x --n 0',
         'generate x --truncation 3', 'interpolate m a', 'interpolate m a b --steps 1', 'check', 'info x', 'app x', 'app --port 0', 'app --port 70000',
         'evaluate m', 'evaluate m d --n 1', 'evaluate m d --split maybe', 'evaluate m d --seed -1']

@pytest.mark.parametrize('line', USAGE)
def test_wrong_usage_is_2(line, call):
    status, out, err = call(*line.split())
    assert (status, out) == (2, '') and re.search('^Error: ', err, re.M)

@pytest.mark.parametrize('line, right', [('train x --presett nano', '--preset'), ('train x --preset bsae', 'base'), ('tran x', 'train'),
                                         ('train x --precision fp23', 'fp32'), ('demo --minuts 1', '--minutes'), ('generate x --overwrit', '--overwrite')])
def test_nearest_word_is_named(line, right, call):
    err = call(*line.split())[2]
    assert re.search(rf"Did you mean '?{right}'?\?|Possible options: {right}\)", err)

@pytest.mark.parametrize('word', ['--key', '--api-key', '--api_key=sk-x', '--openai-api-key', '--apikey', '--OPENAI-KEY=x', '--token'])
def test_keys_are_never_arguments(word, call):
    status, out, err = call('demo', word, 'sk-mine')
    assert (status, out) == (2, '') and 'use OPENAI_API_KEY' in err and 'sk-' not in err

@pytest.mark.parametrize('name', 'demo train generate check info interpolate caption prompts app evaluate'.split())
def test_help_shows_an_example(name, call):
    status, out, err = call(name, '--help')
    assert (status, err) == (0, '') and f'Example: promptgan {name}' in out
    assert all(o in out for o in FLAGS[name].split())

FLAGS = dict(app='--model --port --browser --no-browser', demo='--data --minutes --seed --out', check='folder', info='Usage', interpolate='model a b',
             train='--preset --from --size --minutes --kimg --epochs --batch-size --lr --lr-decay --prompts --save-every --resume --seed --out',
             generate='--model --n --seed --truncation --out --overwrite --chatgpt', prompts='topic --n --out --max-usd --yes', evaluate='model data --split --n --seed --json --nearest --overwrite',
             caption='--n --max-words --language --model --base-url --workers --max-usd --max-calls --dry-run --retry-failed --batch --yes')

# --- what the commands do

@pytest.mark.parametrize('more, networks', [((), None), (('--preset', 'medium'), 'medium')])
def test_demo_hands_over(more, networks, call, module, monkeypatch):
    asked = []
    def demo(*args, say, command, **kw): asked.append((*args, command)); say('done')
    module('demo', demo=demo); monkeypatch.setattr(sys, 'argv', ['promptgan', 'demo', '--out', 'a b'])
    assert call('demo', '--data', 'scenes', '--minutes', '.5', '--seed', '3', '--out', 'a b', *more)[:2] == (0, 'done\n')
    data, minutes, out, seed, preset, device, precision, resume, command = asked[0]
    assert (data, minutes, str(out), seed, preset, device, precision, resume) == ('scenes', .5, 'a b', 3, networks, None, 'auto', False)
    assert command == "promptgan demo --out 'a b'"

@pytest.mark.parametrize('stopped, status', [('SIGINT', 130), ('interrupted', 130), ('SIGTERM', 143), (None, 0)])
def test_stopped_demo(stopped, status, call, module):
    module('demo', demo=lambda *args, **kw: dict(stopped=stopped))
    assert call('demo')[0] == status

@pytest.fixture
def training(module):
    "A training that remembers what it was asked"
    asked = types.SimpleNamespace(stop=None, rank=0, images=64, step=2, pipeline=lambda: None)
    class Pictures:
        train, captions = [0]*50, [['a red cat']]
        def __repr__(self): return 'fifty pictures'
    def load_data(*args): asked.data = args; return Pictures()
    def learner(data, preset, **kw): asked.preset, asked.kw = preset, kw; return asked
    def fit(**kw): asked.budget = kw
    asked.fit = fit
    module('demo', load_data=load_data); module('train', text_gan_learner=learner); module('networks', resized=lambda preset, size: None, PRESETS=dict(small=dict(size=64), base128=dict(size=128)))
    module('report', write_report=lambda out, *args, **kw: out/'report.html')
    return asked

def test_train_hands_over(training, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'prompts.txt').write_text('a red cat\n\na blue dog\n')
    status, out, err = call('train', 'My Photos', '--preset', 'base128', '--lr', '1e-4', '--lr-decay', 'none', '--batch-size', '8', '--epochs', '3',
                            '--prompts', 'prompts.txt', '--save-every', '7', '--seed', '5', '--resume')
    assert (status, err) == (0, '') and 'fifty pictures' in out and 'promptgan generate "a red cat"' in out
    assert training.data == ('My Photos', 128, 5) and training.preset == 'base128' and training.budget == dict(images=150, resume=True)
    kw = training.kw; assert str(kw['out']) == os.path.join('runs', 'my-photos')
    assert (kw['lr'], kw['lr_decay'], kw['bs'], kw['save_steps'], kw['prompts'], kw['resume']) == (1e-4, 'none', 8, 7, ['a red cat', 'a blue dog'], True)

@pytest.mark.parametrize('given, wanted', [('--minutes 5', dict(minutes=5.)), ('--kimg 2', dict(images=2000.)), ('', dict(images=500))])
def test_train_budgets(given, wanted, training, call):
    assert call('train', 'x', *given.split())[0] == 0 and training.budget == pytest.approx(dict(wanted, resume=False), rel=.02)   # the words take their part

@pytest.mark.parametrize('stop, status', [('SIGINT', 130), ('interrupted', 130), ('SIGTERM', 143)])
def test_stopped_training(stop, status, training, call):
    training.stop = stop
    got, out, _ = call('train', 'x', '--out', 'r')
    assert got == status and '--resume' in out and 'report' not in out

def test_only_the_first_process_speaks(training, call, monkeypatch):
    training.rank = 1; monkeypatch.setenv('RANK', '1')
    assert call('train', 'x') == (0, '', '')

def test_chatgpt_says_prompts_in_known_words(pipe, call, module, tmp_path):
    module('prompts', ground_prompt=lambda pipe, p, chat: types.SimpleNamespace(prompt=p, text='a red house', by='ChatGPT'))
    status, out, err = call('generate', 'ein rotes Haus', '--model', 'm', '--n', '2', '--chatgpt', '--out', tmp_path)
    assert status == 0 and 'ein rotes Haus -> a red house (ChatGPT)' in err and pipe[-1][:2] == (['a red house'], 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['ein-rotes-haus-0.png', 'ein-rotes-haus-1.png']   # named as asked

def test_generate_names_each_picture_by_its_seed(pipe, call, tmp_path):
    status, out, err = call('generate', 'A red cat!', '蓝色的心', 'A red cat!', '--model', 'm', '--n', 2, '--seed', 7, '--out', tmp_path)
    assert status == 0 and 'zebra' in err and pipe == ['m', (['A red cat!', '蓝色的心'], 2, [7, 8, 7, 8], 1.)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a-red-cat-7.png', 'a-red-cat-8.png', '蓝色的心-7.png', '蓝色的心-8.png']
    assert out.splitlines()[0] == str(tmp_path/'a-red-cat-7.png')

def test_nothing_is_overwritten_and_nothing_drawn_in_vain(pipe, call, tmp_path):
    mine = tmp_path/'a-cat-1.png'; mine.write_text('mine')
    status, out, err = call('generate', 'a cat', '--model', 'm', '--out', tmp_path)
    assert (status, out) == (1, '') and '--overwrite' in err and mine.read_text() == 'mine' and pipe == [] and len(list(tmp_path.iterdir())) == 1
    assert call('generate', 'a cat', '--model', 'm', '--out', tmp_path, '--overwrite')[0] == 0 and Image.open(mine).size == (8, 8)
    status, _, err = call('generate', 'a cat', '--model', 'm', '--out', mine)
    assert status == 1 and 'is a file' in err

def test_newest_run_is_taken(pipe, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(base, 'shipped_weights', lambda: [])
    status, _, err = call('generate', 'a cat'); assert status == 1 and 'promptgan demo' in err
    for i, name in enumerate(('new', 'old')):
        config = tmp_path/'runs'/name/'pipeline'/'config.json'; config.parent.mkdir(parents=True); config.touch(); os.utime(config, (9 - i, 9 - i))
    assert call('generate', 'a cat')[0] == 0 and str(pipe[0]) == os.path.join('runs', 'new')

def test_without_a_run_the_shipped_model_that_knows_the_words_draws(pipe, call, module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(base, 'shipped_weights', lambda: ['cats', 'dogs'])
    Fake = sys.modules['promptgan.pipeline'].TextToImagePipeline; load = Fake.from_pretrained
    def named(name, device=None):
        made = load(name, device); made.words = types.SimpleNamespace(unknown=lambda p: [w for w in p.split() if w not in ('a', name)]); return made
    monkeypatch.setattr(Fake, 'from_pretrained', named)
    for word in ('dogs', 'cats'):
        status, out, err = call('generate', f'a {word}'); assert status == 0 and f'drawn by {word}' in err and pipe[-2] == word

def test_interpolate_writes_one_picture(pipe, call, tmp_path):
    assert call('interpolate', 'm', 'a cat', 'a dog', '--steps', 3, '--out', tmp_path)[0] == 0
    assert pipe == ['m', ('a cat', 'a dog', 3)] and [p.name for p in tmp_path.iterdir()] == ['a-cat-to-a-dog-0.png']

def test_evaluate_writes_numbers(call, module, tmp_path):
    asked, grid = [], types.SimpleNamespace(save=lambda path: open(path, 'w').close())
    result = types.SimpleNamespace(to_dict=lambda: dict(mae=dict(value=.1)), nearest=grid, __str__=None)
    class Model:
        size, info = 64, dict(data_seed=7)         # the data is split as in training, whatever the seed of the noise
        @classmethod
        def from_pretrained(cls, name, device=None): asked.append(name); return cls()
    module('metrics', evaluate=lambda pipe, exam, n, seed, train: asked.append((exam, n, seed, train)) or result)
    module('pipeline', TextToImagePipeline=Model)
    from promptgan import evalcli
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evalcli, 'exam_data', lambda *args: (args, None))
        words = 'evaluate', 'm', 'scenes', '--split', 'train', '--n', 9, '--seed', 3, '--json', tmp_path/'a'/'s.json', '--nearest', tmp_path/'near.png'
        assert call(*words)[0] == 0 and asked == ['m', (('scenes', 64, 'train', 9, 7), 9, 3, None)]
        assert (tmp_path/'a'/'s.json').read_text().strip().startswith('{') and (tmp_path/'near.png').exists()
        status, out, err = call(*words); assert (status, out, err.count('\n')) == (1, '', 1) and '--overwrite' in err and len(asked) == 2
        assert call(*words, '--overwrite')[0] == 0

def test_check_says_by_its_status(call, module):
    for ok, status in ((True, 0), (False, 1)):
        module('check', check_folder=lambda folder: types.SimpleNamespace(ok=ok, lines=lambda most: [f'up to {most:,} of each kind']))
        assert call('check', 'x')[0] == status

@pytest.mark.parametrize('line, model, browser', [('--model m --no-browser', 'm', False), ('', os.path.join('runs', 'mine'), True)])
def test_app_serves_a_model(line, model, browser, call, tmp_path, monkeypatch):
    from promptgan import appcli
    config = tmp_path/'runs'/'mine'/'pipeline'/'config.json'; config.parent.mkdir(parents=True); config.touch(); monkeypatch.chdir(tmp_path)
    asked = []; monkeypatch.setattr(appcli, 'serve', lambda *args, say: asked.append(args))
    assert call('app', *line.split())[0] == 0 and (str(asked[0][0]), *asked[0][1:]) == (model, 8866, browser, None)

def test_stopped_app(call, monkeypatch):
    from promptgan import appcli
    def serve(*args, say): raise KeyboardInterrupt
    monkeypatch.setattr(appcli, 'serve', serve); assert call('app', '--model', 'm') == (130, '', 'stopped\n')

# --- processes; none of them imports torch, so they are quick

WAIT = '''
import signal, sys, time, types, promptgan.cli as c
signal.signal(signal.SIGINT, signal.default_int_handler) # as on a terminal, also where the tests run in the background
def demo(*args, say, **kw): say('\\u84dd'); time.sleep({seconds}); say('more'); say('and more')
sys.modules['promptgan.demo'] = types.SimpleNamespace(demo=demo); c.main(['demo'])'''

def start(code, **kw):
    "A process that runs `code`"
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)

@pytest.mark.skipif(os.name == 'nt', reason='Windows has other signals')
@pytest.mark.parametrize('sig, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(sig, status):
    with start(WAIT.format(seconds=20)) as p:
        p.stdout.readline(); p.send_signal(sig); out, err = p.communicate(timeout=20)
    assert p.returncode == status and b'Traceback' not in err

def test_closed_pipe_is_silent():
    with start(WAIT.format(seconds=.3)) as p:
        p.stdout.readline(); p.stdout.close(); err = p.stderr.read()
    assert (p.wait(20), err) == (0, b'')

def test_no_terminal_no_locale_no_input():
    env = {**os.environ, 'LC_ALL': 'C', 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'NO_COLOR': '1', 'COLUMNS': '40'}
    with start(WAIT.format(seconds=0), env=env, stdin=subprocess.DEVNULL) as p: out, err = p.communicate(timeout=20)
    assert (p.returncode, out.decode('utf8').splitlines()[0], err) == (0, '蓝', b'')
    with start('import promptgan.cli as c; c.main(["train", "--help"])', env=env) as p: out, err = p.communicate(timeout=20)
    assert p.returncode == 0 and not re.search(rb'[\x00-\x08\x0b-\x1f\x7f]', out + err)

def test_help_does_not_wait_for_torch():
    with start('import sys, promptgan.cli as c; s = c._run(["train", "--help"]); print(s, "torch" in sys.modules)') as p: out, _ = p.communicate(timeout=20)
    assert out.decode().splitlines()[-1] == '0 False'
