"What dashboard, chooser and data browser do when things come too early, too late, half written or not at all"
import io, json, os, subprocess, threading, time
from pathlib import Path
import pytest
from PIL import Image
from promptgan import text_gan_learner
from promptgan.checkpoint import RunLock
from promptgan.dashboard import Dashboard, Trainer, TrainProcess
from promptgan.look import safe
from test_widget_faults import kernel, run, said
from tinymodel import tiny_pipeline

HOSTILE = 'a red house <script>x</script> </title> <img src=x onerror=y> /etc/passwd'

@pytest.fixture(scope='module')
def tiny(): return tiny_pipeline(64)

def learner(tiny, out=None, **kw):
    pipe, data = tiny
    return text_gan_learner(data, 'nano', out=out, words=pipe.words, bs=4, precision='fp32', progress=False, **kw)

def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true(): assert time.monotonic() < end, 'waited too long'; time.sleep(.02)

def rows(run, *steps, **more):
    run.mkdir(parents=True, exist_ok=True)
    with (run/'metrics.jsonl').open('a') as f: f.writelines(json.dumps(dict(step=s, images=4*s, seconds=s, img_s=4., **more)) + '\n' for s in steps)

def long_ago(path, seconds=600): os.utime(path, (time.time() - seconds,)*2)

# --- following

def test_opened_before_the_run_is_there(tmp_path):
    out = tmp_path/'run'; d = Dashboard(out, every=.05); until(lambda: d.message == 'waiting for news'); assert d.busy and d.go.disabled
    with RunLock(out): rows(out, 20); until(lambda: d.message == 'training' and len(d.rows) == 1)
    long_ago(out/'metrics.jsonl', 30); until(lambda: d.message.startswith('ended at step 20')); assert d.busy
    with RunLock(out): rows(out, 40); until(lambda: d.message == 'training' and len(d.rows) == 2)    # resumed
    d.stop_button.click(); assert d.wait(5) and d.message == 'no longer watching'

def test_start_while_the_last_look_is_drawn(tiny):
    d = Dashboard(learner(tiny), steps=100_000, every=.05); look, slow = d.refresh, threading.Event()
    def refresh(): slow.is_set() and not d.trainer.running and time.sleep(1); look()
    d.refresh = refresh; d.go.click(); until(lambda: d.trainer.learn.step > 1)
    slow.set(); d.stop_button.click(); until(lambda: not d.trainer.running); assert d.busy
    step = d.trainer.learn.step; slow.clear(); d.go.click(); until(lambda: d.trainer.learn.step > step)
    until(lambda: d.busy and not d.stop_button.disabled and d.message == 'training')
    d.stop_button.click(); assert d.wait(20) and d.message.startswith('stopped')

def test_start_in_the_older_of_two_dashboards(tiny):
    learn = learner(tiny); first, second = Dashboard(learn, steps=3, every=.05), Dashboard(learn, steps=100_000, every=.05)
    first.go.click(); assert first.wait(60) and first.message == 'done at step 3'
    second.go.click(); until(lambda: learn.step > 4); assert second.busy
    first.go.click(); assert first.busy and not second.busy and second.message == 'no longer watching'   # it takes over
    first.stop_button.click(); assert first.wait(20) and not first.trainer.running

def test_fit_elsewhere_after_stop(tiny):
    learn = learner(tiny); d = Dashboard(learn, steps=100_000, every=.05); d.go.click(); until(lambda: learn.step > 1); d.stop_button.click(); d.wait(20)
    step = learn.step; learn.fit(steps=3); assert (learn.step, learn.stop) == (step + 3, None)

# --- a training in a process; a program that sleeps stands for it

@pytest.fixture
def lines(monkeypatch):
    "The lines that were started"
    begun, popen = [], subprocess.Popen
    class Sub:
        DEVNULL = subprocess.DEVNULL
        def Popen(line, **kw): begun.append(line); return popen(['sleep', '60'], **kw)
    monkeypatch.setattr('promptgan.dashboard.subprocess', Sub); return begun

def saved(out, step): (out/'checkpoints'/f'step_{step:09d}').mkdir(parents=True); (out/'config.json').write_text('{}')

def minutes(line): return float(line[line.index('--minutes') + 1])

def test_minutes_that_are_left(lines, tmp_path):
    out = tmp_path/'run'; t = TrainProcess(['scenes', '--minutes', 10], out); t.start(); assert minutes(lines[0]) == 10 and '--resume' not in lines[0]
    rows(out, 20, 40, 240); saved(out, 240); assert t.left([dict(seconds=240)]) == 360
    t.stop(10); assert t.stopped and t.error is None
    t.start(); assert minutes(lines[1]) == 6 and '--resume' in lines[1] and t.left([dict(seconds=300)]) == 300
    t.process.kill(); t.process.wait(); later = TrainProcess(['scenes', '--minutes', 10], out)              # a new kernel
    assert later.left([dict(seconds=300)]) == 300; later.start(); assert minutes(lines[2]) == 6; later.process.kill()
    later.process.wait(); rows(out, 595, 599); saved(out, 600); last = TrainProcess(['scenes', '--minutes', 10], out)
    last.start(); assert minutes(lines[3]) == 10 and last.left([dict(seconds=599)]) == 600                   # it was used up
    last.process.kill(); last.process.wait()

def test_pictures_that_are_left(lines, tmp_path):
    out = tmp_path/'run'; t = TrainProcess(['scenes', '--kimg', 1], out); t.start(); rows(out, 100, 125); saved(out, 125)
    read = lambda: [json.loads(l) for l in (out/'metrics.jsonl').read_text().splitlines()]
    assert round(t.left(read())) == 125; t.stop(10); t.start(); assert round(t.left(read())) == 125 and lines[1][-5:-3] == ['--kimg', '1']
    t.stop(10); rows(out, 225, 249); saved(out, 249); t = TrainProcess(['scenes', '--kimg', 1], out); t.start(); assert round(t.left(read())) == 250
    t.stop(10); assert TrainProcess(['scenes', '--epochs', 2], out).left(read()) is None

def test_a_process_that_was_stopped_says_so(lines, tmp_path):
    d = Dashboard(tmp_path/'run', train=['scenes', '--minutes', 10], every=.05); assert d.busy and not d.go.disabled   # it waits
    rows(d.run, 40)
    for button in (d.stop_button, d.hold):
        d.go.click(); until(lambda: d.message == 'training' and not d.hold.disabled); button.click(); assert d.wait(10) and d.message == 'stopped at step 40'

# --- news

def test_no_alert_while_paused(tiny, tmp_path):
    learn = learner(tiny, tmp_path/'run'); d = Dashboard(learn, steps=100_000, every=.05); d.go.click(); until(lambda: d.rows)
    d.hold.click(); time.sleep(.5); long_ago(tmp_path/'run'/'metrics.jsonl'); time.sleep(.3); assert 'no news' not in d.warn.value
    d._heard = 0.; d.refresh(); assert 'no news' not in d.warn.value
    again = Dashboard(learn, steps=100_000, every=.05); until(lambda: again.message == 'paused: Start goes on'); assert again.hold.disabled
    again.go.click(); again.refresh(); assert 'no news' not in again.warn.value      # the pause does not count
    again.stop_button.click(); again.wait(20)

def test_alert_for_a_run_that_hangs(tmp_path):
    rows(tmp_path, 20); long_ago(tmp_path/'metrics.jsonl')
    with RunLock(tmp_path): d = Dashboard(tmp_path, every=.05); until(lambda: 'no news for 10 minutes' in d.warn.value); d.stop_button.click(); d.wait(5)

def test_sample_read_half_written(tmp_path):
    (tmp_path/'samples').mkdir(); (tmp_path/'config.json').write_text('{"prompts": ["a", "b"]}'); buf = io.BytesIO(); Image.effect_noise((64, 32), 90).save(buf, 'PNG')
    d = Dashboard(tmp_path, every=60); d.stop(); d.wait(5); assert 'no pictures yet' in d.film.value
    path = tmp_path/'samples'/'step_000000020.png'; path.write_bytes(buf.getvalue()[:900]); d.refresh(); assert not d.moments
    path.write_bytes(buf.getvalue()); d.refresh(); assert [s for s, _ in d.moments] == [20] and d.film.value.count('<img') == 2

def test_speed_is_that_of_now_and_curves_fit_the_page(tmp_path):
    for s, t in ((20, 20), (40, 40), (60, 80)): rows(tmp_path, s); p = tmp_path/'metrics.jsonl'; p.write_text(p.read_text().replace(f'"seconds": {s},', f'"seconds": {t}.0,'))
    d = Dashboard(tmp_path, every=60); d.stop(); d.wait(5); assert '2 pictures/s' in d.facts.value and 'img_s 2<' in d.plot.value
    assert d.rows[-1]['img_s'] == 4. and 'max-width:100%' in d.plot.value.split('<img ')[1].split('>')[0]

# --- pictures of fixed prompts, with hostile words

@pytest.mark.parametrize('folder', [True, False])
def test_hostile_prompts_of_a_run(tiny, tmp_path, folder):
    learn = learner(tiny, tmp_path/'run' if folder else None, sample_prompts=[HOSTILE, 'a\nblue tree']); d = Dashboard(learn, steps=20, every=.05)
    assert 'no pictures yet' in d.film.value; d.go.click(); assert d.wait(60) and d.message == 'done at step 20'
    assert [s for s, _ in d.moments] == [20] and d.film.value.count('<img') == 2 and f'alt="{safe(HOSTILE)}"' in d.film.value
    for page in (d.to_html(), d._repr_mimebundle_()['text/html'], *([Dashboard(tmp_path/'run').to_html()] if folder else [])):
        assert '<script' not in page and '</title' not in page and 'src=x' in page and '<img src=x' not in page and 'root:' not in page
    if folder: d = Dashboard._shown[str((tmp_path/'run').resolve())]; d.stop(); d.wait(5)

def test_learner_without_prompts_says_so(tiny):
    learn = learner(tiny); learn.sample_prompts = (); assert 'no fixed prompts' in Dashboard(learn).film.value

def test_moments_in_memory_are_not_too_many(tiny):
    learn = learner(tiny, sample_prompts=['a tree']); t = Trainer(learn); learn.draw = lambda prompts: [0]
    for learn.step in range(500): t._keep(learn)
    assert len(t.moments) <= 60 and t.moments[-1][0] == 499 and t.moments[0][0] > 0

# --- browser and chooser

def test_stop_while_a_folder_is_checked(tmp_path, monkeypatch):
    from promptgan import browse, check
    for i in range(40): Image.new('RGB', (9, 9), (i, 0, 0)).save(tmp_path/f'{i}.png'); (tmp_path/f'{i}.txt').write_text(f'number {i}')
    read = check.read_pictures
    def slow(*args, **kw):
        for pair in read(*args, **kw): time.sleep(.2); yield pair
    monkeypatch.setattr(check, 'read_pictures', slow); b = browse.DatasetBrowser(tmp_path, n=4, size=8); b.check.click(); time.sleep(.5); assert b.busy
    start = time.monotonic(); b.stop_button.click(); assert b.wait(5) and time.monotonic() - start < 2 and b.message.startswith('stopped: ') and b.error is None

def test_caption_that_was_found():
    from promptgan import TextImageData
    from promptgan.browse import DatasetBrowser
    data = TextImageData.from_arrays([Image.new('RGB', (8, 8))], [['a cat', HOSTILE]], size=8, valid=0); b = DatasetBrowser(data)
    assert 'alt="a cat (train)"' in b.page.value and f'| {safe(HOSTILE)}"' in b.page.value and safe(data.names[0]) in b.page.value
    b.search.value = 'house'; assert f'alt="{safe(HOSTILE)} (train)"' in b.page.value and '| a cat"' in b.page.value and '<script' not in b.to_html()

def test_probe_of_another_device_is_dropped():
    from promptgan.chooser import ArchitectureChooser
    go, began = threading.Event(), threading.Event()
    def measure(*a, **kw): began.set(); go.wait(10); return 7.
    c = ArchitectureChooser(seconds=1, measure=measure); c.go.click(); began.wait(5); c._other(); go.set()
    assert c.wait(10) and c.message == 'stopped' and c.rates == {}

def test_probe_stops_soon(monkeypatch):
    import torch
    from promptgan import chooser
    assert [chooser._probe_bs(k, torch.device('cpu')) for k in ('nano', 'small', 'dcgan', 'base', 'base256')] == [32, 32, 8, 4, 4]
    assert chooser._probe_bs('base256', torch.device('cuda')) == 32
    class Learner:
        "Counts its steps, and Stop is pressed in the first"
        steps = 0; device = torch.device('cpu')
        def __init__(self, *a, **kw): pass
        def fit(self, steps): Learner.steps += steps; Learner.stop.set()
    monkeypatch.setattr(chooser, 'GANLearner', Learner); c = chooser.ArchitectureChooser(); Learner.stop = c.stopping
    c.go.click(); assert c.wait(30) and (c.message, Learner.steps, c.rates, c.error) == ('stopped', 1, {}, None)

def test_folder_of_ones_own(tmp_path):
    from promptgan.chooser import ArchitectureChooser
    for n in ('a.png', 'b.jpg', 'c.txt'): (tmp_path/n).write_text('')
    c = ArchitectureChooser(); assert c.folder.disabled; c.source.value = 'a folder of mine'; assert not c.folder.disabled
    c.folder.value = str(tmp_path); assert safe(f'from_folder({str(tmp_path)!r}') in c.code.value and ': 2 pictures' in c.found.value
    c.folder.value = "<b>it's"; assert 'no such folder' in c.found.value and '<b>' not in c.to_html()
    c.source.value = 'emoji'; assert c.found.value == '' and 'emoji(size' in c.code.value

# --- memory

def test_memory_after_interrupted_trainings(kernel):
    "A training that was interrupted, and one more, leave nothing large behind"
    code = f'''
import gc, sys; sys.path.append({str(Path(__file__).parent)!r})
from promptgan import text_gan_learner
from tinymodel import tiny_pipeline
pipe, data = tiny_pipeline(64)
def memory(): gc.collect(); return int(open('/proc/self/statm').read().split()[1])*4096/2**20
def train(**budget): text_gan_learner(data, 'nano', words=pipe.words, bs=4, precision='fp32', progress=False).fit(**budget)
train(steps=3); before = memory()'''
    assert not said(out := run(kernel, code)), said(out)
    for _ in range(2): run(kernel, 'print("go"); train(minutes=5)', 'go')
    more = float(said(run(kernel, 'print(memory() - before)'))); print(f'{more:.0f} MB more'); assert more < 150
