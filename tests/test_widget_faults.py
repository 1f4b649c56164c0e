"Widgets in a real kernel: it is interrupted while it trains, and the text is hostile (W1, W4); widgets without ipywidgets"
import json, os, sys, time
from pathlib import Path
import pytest
from jupyter_client.manager import start_new_kernel

TESTS = str(Path(__file__).parent)
START = f'''
import sys, threading; sys.path.append({TESTS!r})
from pathlib import Path
from promptgan import text_gan_learner
from promptgan.widgets import Dashboard, Playground
from tinymodel import tiny_pipeline
pipe, data = tiny_pipeline(64)
learn = text_gan_learner(data, 'nano', out='run', words=pipe.words, bs=4, precision='fp32', progress=False, resume=True)
def children(): return [p for p in Path('/proc').glob('[0-9]*/stat') if p.read_text().rsplit(')', 1)[1].split()[1] == str(__import__('os').getpid())]
before = {{t.name for t in threading.enumerate()}}
'''

@pytest.fixture(scope='module')
def kernel(tmp_path_factory):
    manager, client = start_new_kernel(cwd=str(tmp_path_factory.mktemp('kernel')))
    yield manager, client
    client.stop_channels(); manager.shutdown_kernel(now=True)

def run(kernel, code, interrupt_when=None, seconds=120):
    "Execute, interrupt a moment after a text was said; the outputs"
    manager, client = kernel; out = []
    id = client.execute(code, stop_on_error=False); end = time.monotonic() + seconds
    while time.monotonic() < end:
        if interrupt_when and interrupt_when in said(out): time.sleep(1.5); manager.interrupt_kernel(); interrupt_when = None
        try: msg = client.get_iopub_msg(timeout=.2)
        except Exception: continue
        if msg['parent_header'].get('msg_id') != id: continue
        if msg['msg_type'] in ('stream', 'execute_result', 'display_data', 'error'): out.append(msg['content'])
        if msg['msg_type'] == 'status' and msg['content']['execution_state'] == 'idle': return out
    raise TimeoutError(f'no end of: {code}; {out}')

def said(out): return ''.join(o.get('text', '') or '\n'.join(o.get('traceback', [])) for o in out)

def test_interrupt_while_it_trains(kernel):
    out = run(kernel, START); assert not said(out), said(out)
    out = run(kernel, 'print("go"); learn.fit(minutes=5); print(learn.stop, learn.step > 0, len(children()), len({t.name for t in threading.enumerate()} - before))', 'go')
    _, told, facts = said(out).splitlines(); assert told.startswith('stopped at step') and told.endswith('all is saved in run, resume=True goes on')
    assert facts.split() in (['SIGINT', 'True', '0', '0'], ['interrupted', 'True', '0', '0'])
    out = run(kernel, 'at = learn.step; learn.fit(steps=3, resume=True); print(learn.step - at, learn.stop)'); assert said(out) == '3 None\n'

def test_interrupt_while_a_dashboard_waits(kernel):
    out = run(kernel, 'd = Dashboard(learn, minutes=5, every=.2); d.go.click(); print("go"); print(d.wait(300), d.trainer.running, *{t.name for t in threading.enumerate() if "(" in t.name} - before)', 'go')
    assert said(out) == 'go\nTrue False\n'   # threads with a bracket in their name are ours; others are of Jupyter
    out = run(kernel, 'at = learn.step; d = Dashboard(learn, steps=3, every=.2); d.go.click(); d.wait(); print(learn.step - at, d.message == f"done at step {learn.step}")')
    assert said(out) == '3 True\n'

def test_hostile_prompt_is_text_in_every_output(kernel):
    bad = 'a red house <script>x</script> </title> /etc/passwd'
    out = run(kernel, f'play = Playground(pipe, {bad!r}); play.go.click(); play.wait(); play')
    data = out[-1]['data']; assert 'application/vnd.jupyter.widget-view+json' in data
    page = data['text/html']; assert '<script' not in page and '</title' not in page and '&lt;script&gt;x&lt;/script&gt;' in page and 'root:' not in page

def test_lesson_runs_as_a_person_runs_it():
    "By nbclient, in a real kernel: every cell ends well, and widgets leave pictures for readers without a kernel"
    import nbformat
    from conftest import ROOT
    from nbclient import NotebookClient
    nb = nbformat.read(ROOT/'nbs'/'tutorials'/'03_play.ipynb', 4)
    NotebookClient(nb, timeout=120, resources=dict(metadata=dict(path=str(ROOT/'nbs'/'tutorials')))).execute()
    pages = [o['data']['text/html'] for c in nb.cells for o in c.get('outputs', []) if 'text/html' in o.get('data', {})]
    assert sum('<img' in p for p in pages) >= 2 and not any('<script' in p for p in pages)

ALONE = """
import sys; sys.modules['ipywidgets'] = sys.modules['anywidget'] = None; sys.path.append({tests!r})   # as if not installed
from promptgan.widgets import CaptionReview, DatasetBrowser, Interpolation, Playground, WordAttention
from tinymodel import tiny_pipeline
pipe, data = tiny_pipeline(64)"""

def test_a_new_process_without_ipywidgets_makes_a_page_by_nbconvert():
    import nbformat
    from nbclient import NotebookClient
    convert = pytest.importorskip('nbconvert')
    cells = [ALONE.format(tests=str(Path(__file__).parent)), 'Playground(pipe)', "Interpolation(pipe, 'a red square', 'a blue square')",
             'DatasetBrowser(data)', "WordAttention(pipe, 'a red square')"]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]); NotebookClient(nb, timeout=120).execute()
    assert all('<img' in c.outputs[-1]['data']['text/html'] for c in nb.cells[1:])
    page = convert.HTMLExporter(template_name='basic').from_notebook_node(nb)[0]; assert page.count('<img') >= 4

# --- without ipywidgets: the same objects, steered by a program, and seen as plain HTML

@pytest.fixture
def plain(monkeypatch):
    "As if ipywidgets were not installed"
    monkeypatch.setitem(sys.modules, 'ipywidgets', None); monkeypatch.setitem(sys.modules, 'anywidget', None)

def shown(widget):
    "What a notebook without widgets shows"
    out = widget._repr_mimebundle_(); assert set(out) == {'text/plain', 'text/html'} and widget.box is None and widget.error is None
    return out['text/html']

def test_review_without_ipywidgets(plain, tmp_path):
    from PIL import Image
    from promptgan.widgets import CaptionReview
    for name in ('red', 'blue'): Image.new('RGB', (64, 64), name).save(tmp_path/f'{name}.png')
    rows = lambda: {r['file_name']: r for r in map(json.loads, (tmp_path/'metadata.jsonl').read_text().splitlines())}
    (tmp_path/'metadata.jsonl').write_text(''.join(json.dumps(dict(file_name=f'{n}.png', text=f'a {n} square')) + '\n' for n in ('red', 'blue')))
    review = CaptionReview(tmp_path); first = review.list[0].name; page = shown(review)
    assert '<img' in page and f'{first} (1 of 2)' in page
    review.text.value = 'a <b>fine</b> square'; review.buttons[2].click(); assert rows()[first]['captions'] == ['a <b>fine</b> square']
    review.buttons[0].click(); page = shown(review); assert 'a &lt;b&gt;fine&lt;/b&gt; square' in page and '<b>fine' not in page and 'accepted' in page
    review.pressed('n'); review.pressed('r'); assert rows()[review.found[1].name]['review'] == 'rejected'
    review.which.value = 'accepted'; assert [e.name for e in review.list] == [first]

def test_attention_without_ipywidgets(plain):
    from promptgan.widgets import WordAttention
    from tinymodel import tiny_pipeline
    look = WordAttention(tiny_pipeline(64)[0], 'a red house'); page = shown(look)       # at once: nothing can be clicked
    assert look.message == '3 words' and look.jobs == 1 and page.count('<img') == 4 and 'without &quot;red&quot;' in page
    look.prompt.value = 'a <script>x</script> house'; look.go.click(); look.wait(60); assert '<script' not in shown(look)

def test_chooser_without_ipywidgets(plain, monkeypatch, tmp_path):
    from promptgan import chooser
    monkeypatch.setattr(chooser, 'STUDY', tmp_path/'study.json')
    choose = chooser.ArchitectureChooser(seconds=1, measure=lambda preset, seconds, **kw: 100.); page = shown(choose)
    assert 'not measured' in page and 'attributes right' not in page     # no study
    choose.preset.value = 'nano'; choose.source.value = 'a folder of mine'; page = shown(choose)
    assert 'preset=&#x27;nano&#x27;' in page and 'from_folder' in page
    choose.go.click(); choose.wait(60); assert choose.message.startswith('measured') and '60,000' in shown(choose)

def test_chooser_shows_what_a_study_measured(monkeypatch, tmp_path):
    from promptgan import chooser
    rows = [dict(arm=a, preset=p, minutes=3., seed=s, attribute_accuracy=v, kind=.4, all_attributes_right=.1, images=9000)
            for a, p, s, v in (('default', 'small', 0, .6), ('default', 'small', 1, .7), ('BCE', 'small', 0, .2), ('nano', 'nano', 0, .5), ('medium', 'medium', 0, .8), ('demo', 'medium', 0, .1))]
    study = tmp_path/'study.json'; study.write_text(json.dumps(rows)); monkeypatch.setattr(chooser, 'STUDY', study)
    quality = {c.preset: c.quality for c in chooser.candidates(64)}
    assert quality['small'] == '65% of attributes right after 3 min (2 seeds)' and quality['nano'].startswith('50%') and quality['medium'].startswith('80%') and quality['base'] == ''
    table = chooser.ArchitectureChooser().table.value; assert '65% of attributes' in table and 'not measured' in table
    for text in ('', '[{"preset": "small"}]', '{"small": 1}', '[null]'):   # a damaged file is as good as none
        study.write_text(text); assert chooser.study_numbers() == {}

def test_app_without_ipywidgets(plain, capsys):
    "One line that says what to do, before anything is started"
    import promptgan.cli as cli
    status = cli._run(['app', '--model', 'nothing', '--no-browser']); err = capsys.readouterr().err
    assert status == 1 and err.count('\n') == 1 and 'ipywidgets' in err and 'pip install' in err and 'Traceback' not in err

@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('PROMPTGAN_SLOW'), reason='set PROMPTGAN_SLOW to run it')
def test_training_in_a_process_outlives_its_dashboard(tmp_path):
    from PIL import Image
    from promptgan.dashboard import Dashboard, TrainProcess
    from promptgan.watch import trainer_of
    photos, run = tmp_path/'photos', tmp_path/'run'; photos.mkdir()
    for i, colour in enumerate(('red', 'green', 'blue', 'gold')):
        Image.new('RGB', (64, 64), colour).save(photos/f'{i}.png'); (photos/f'{i}.txt').write_text(f'a {colour} square')
    args = [photos, '--preset', 'nano', '--kimg', '100', '--batch-size', '2', '--precision', 'fp32']
    d = Dashboard(run, train=args, every=.3); d.go.click(); end = time.monotonic() + 120
    while len(d.rows) < 1 and d.trainer.running and time.monotonic() < end: time.sleep(.1)
    assert d.rows and trainer_of(run) == d.trainer.process.pid and 'time left' in d.facts.value, (run/'train.log').read_text()
    d.leaving = True; d.stopping.set(); d.wait(5)                    # the kernel is gone; the training is not
    later = Dashboard(run, train=args, every=.3); assert later.busy and later.rows and later.trainer.process is None
    start = time.monotonic(); later.stop_button.click(); later.wait(20); print(f'stopped in {time.monotonic() - start:.1f} s')
    assert d.trainer.process.wait(20) == 143 and trainer_of(run) is None and not later.busy
    step = later.rows[-1]['step']; assert list((run/'checkpoints').glob('step_*'))
    later.go.click()                                                 # Start goes on from there
    while trainer_of(run) is None and later.trainer.running and time.monotonic() < end: time.sleep(.1)
    while later.rows[-1]['step'] <= step and later.trainer.running and time.monotonic() < end: time.sleep(.1)
    assert later.rows[-1]['step'] > step, (run/'train.log').read_text()
    later.stop_button.click(); later.trainer.stop(20); later.wait(20); assert not later.trainer.running
    bad = TrainProcess([tmp_path/'nothing'], tmp_path/'bad'); bad.start(); bad.process.wait(60); assert 'Error' in str(bad.error)
