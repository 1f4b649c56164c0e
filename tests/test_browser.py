"Widgets in a real Chromium, in Voila and in JupyterLab: what a person types, presses and sees"
import io, json, os, re, select, shutil, signal, socket, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason='no Chromium here: apt-get install chromium'),
              pytest.mark.skipif(not (find_spec('voila') and find_spec('playwright')), reason='pip install "promptgan[browser]"')]
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']
PATIENCE = float(os.environ.get('PROMPTGAN_PATIENCE', 1))   # times the usual waiting, for a machine that is busy with other things
SHOTS = os.environ.get('PROMPTGAN_SCREENSHOTS')   # a folder: screenshots for the notebooks go there
HOUSE, STAR = 'a large red house in the lower left, by day in clear weather, on grass', 'a large yellow star in the upper right, at night in clear weather, on water'
HOSTILE = 'a red house <script>window.hacked=1</script><img src=x onerror="window.hacked=1"> </title> /etc/passwd'

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A folder with a small pipeline; `PROMPTGAN_MODEL` may name a better one, for screenshots"
    if os.environ.get('PROMPTGAN_MODEL'): return Path(os.environ['PROMPTGAN_MODEL'])
    from tinymodel import tiny_pipeline
    folder = tmp_path_factory.mktemp('model'); tiny_pipeline()[0].save_pretrained(folder); return folder

@pytest.fixture(scope='module')
def context(tmp_path_factory):
    "A browser"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(str(tmp_path_factory.mktemp('profile')), executable_path=CHROMIUM, headless=True,
                                                       viewport=dict(width=1000, height=900), args=FLAGS)
        browser.set_default_timeout(30_000*PATIENCE); yield browser; browser.close()

class Visit:
    "A page, and what it asked of other hosts"
    def __init__(self, context, url, wait):
        self.page, self.foreign = context.new_page(), []
        self.page.on('request', lambda r: self.foreign.append(r.url) if not re.match('(http|ws)://127.0.0.1|data:|blob:', r.url) else None)
        self.page.goto(url, wait_until='domcontentloaded', timeout=120_000*PATIENCE)   # a kernel starts and loads torch
        self.button(wait).wait_for(timeout=60_000*PATIENCE)
    def button(self, name): return self.page.get_by_role('button', name=name, exact=True)
    def press(self, name): self.button(name).click()
    def field(self, label): return self.page.get_by_label(label, exact=True)
    def told(self, text): self.page.locator('[role=status], [role=alert]').filter(has_text=text, visible=True).first.wait_for()
    def images(self): return self.page.eval_on_selector_all('img', 'all => all.filter(i => i.offsetParent).map(i => i.src)')
    def shoot(self, name):
        "A screenshot for the notebooks, in few colours so that it is small"
        if not SHOTS: return
        from PIL import Image
        data = self.page.locator('.pg-frame').filter(visible=True).first.screenshot()
        Image.open(io.BytesIO(data)).convert('RGB').quantize(96, dither=0).save(f'{SHOTS}/{name}.png', optimize=True)

def until(test, seconds=20.):
    "Wait for something to be true"
    end = time.monotonic() + seconds*PATIENCE
    while not test():
        assert time.monotonic() < end, 'it never happened'
        time.sleep(.02)

def unnamed(visit):
    "Controls and pictures that a screen reader could not name"
    session = visit.page.context.new_cdp_session(visit.page); roles = 'button textbox combobox slider spinbutton checkbox image listbox tab link radio'
    nodes = session.send('Accessibility.getFullAXTree')['nodes']
    found = [(n['role']['value'], n.get('name', {}).get('value', '')) for n in nodes if not n.get('ignored') and n.get('role', {}).get('value') in roles.split()]
    assert len(found) > 3, 'there is nothing to test'
    return [r for r, name in found if not name.strip()]

PALE = '''() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
  const lum = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4 }); return .2126*r + .7152*g + .0722*b };
  const over = (c, below) => [0, 1, 2].map(i => c[i]*c[3] + below[i]*(1 - c[3]));
  const ground = e => { if (!e) return [255, 255, 255]; const c = parse(getComputedStyle(e).backgroundColor); return c[3] == 1 ? c.slice(0, 3) : over(c, ground(e.parentElement)) };
  const bad = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); let seen = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, words = walk.currentNode.textContent.trim();
    if (!words || !e.closest('.pg-frame, .jupyter-widget-tab') || !e.offsetParent || e.closest('[disabled], style, option, script')) continue;
    const g = ground(e), c = over(parse(getComputedStyle(e).color), g), [x, y] = [lum(c), lum(g)].sort((a, b) => b - a);
    seen++; if ((x + .05)/(y + .05) < 4.5) bad.push([words.slice(0, 40), (x + .05)/(y + .05)])
  }
  return seen > 3 ? bad : ['nothing seen'] }'''

def readable(visit):
    "Every control and picture has a name, every text can be read, and nothing came from elsewhere"
    time.sleep(.4)   # names of sliders come a moment after them
    assert unnamed(visit) == [] and visit.page.evaluate(PALE) == [] and visit.foreign == []

# --- the app: playground and interpolation

@pytest.fixture(scope='module')
def app(model, tmp_path_factory):
    "`promptgan app`, as a person starts it"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    folder = tmp_path_factory.mktemp('app'); (folder/'runs').mkdir(); (folder/'runs'/'demo').symlink_to(model)
    line = [sys.executable, '-c', 'import promptgan.cli as c; c.main()', 'app', '--model', 'runs/demo', '--port', port, '--no-browser']
    process = subprocess.Popen(list(map(str, line)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    assert select.select([process.stdout], [], [], 90*PATIENCE)[0], process.kill() or process.communicate()
    process.url = re.search(r'http://\S+', process.stdout.readline())[0]
    yield process
    if process.poll() is None: process.kill()

@pytest.fixture(scope='module')
def visit(app, context):
    v = Visit(context, app.url, 'Generate'); yield v; v.page.close()

def generate(visit):
    before = visit.images(); visit.press('Generate'); until(lambda: visit.images() != before)

def test_generate(visit):
    visit.field('prompt').fill(HOUSE); generate(visit); visit.told('4 pictures')
    alts = visit.page.eval_on_selector_all('img', 'all => all.filter(i => i.offsetParent).map(i => i.alt)')
    assert alts == [f'{HOUSE} (seed {i})' for i in range(4)]
    visit.field('seed').fill('5'); visit.field('seed').press('Enter'); visit.field('prompt').press('Enter')   # the keyboard alone
    visit.page.get_by_text('(seed 8)').wait_for(); readable(visit); visit.shoot('playground')

def test_generate_is_quick(visit):
    watch = '''() => new Promise(done => { const go = [...document.querySelectorAll('button')].find(b => b.innerText == 'Generate'), old = document.querySelector('.pg-row img').src;
      const start = performance.now(); go.click(); (function look() { const i = [...document.querySelectorAll('.pg-row img')].filter(i => i.offsetParent);
      i[0].src != old && i.length == 4 && i.every(p => p.complete) ? done(performance.now() - start) : requestAnimationFrame(look) })() })'''
    times = []
    for i in range(7):
        visit.field('seed').fill(str(100 + i)); visit.field('seed').press('Enter'); time.sleep(.5); times.append(visit.page.evaluate(watch))
    print(f'\nclick to four pictures on the screen: median {sorted(times)[3]:.0f} ms, of {[round(t) for t in times]}')
    assert sorted(times)[3] < 300*PATIENCE

FIFTY = '''([name, wait]) => new Promise(done => {
  const shown = select => [...document.querySelectorAll(select)].filter(e => e.offsetParent), go = shown('button').find(b => b.innerText == name);
  let jobs = 0, was = ''; const look = () => { const now = shown('[role=status]').map(e => e.innerText).join(); if (now != was && now.includes('drawing')) jobs++; was = now };
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
  for (let i = 0; i < 50; i++) go.click();
  setTimeout(() => done(jobs), wait) })'''   # how often the line below said that a job begins

def test_fifty_clicks_are_one_job(visit):
    visit.field('seed').fill('300'); visit.field('seed').press('Enter'); time.sleep(.5)
    assert visit.page.evaluate(FIFTY, ['Generate', 1500*PATIENCE]) == 1; visit.page.get_by_text('(seed 303)').wait_for()
    assert visit.page.evaluate(FIFTY, ['Dice', 1500*PATIENCE]) == 1; seed = visit.field('seed').input_value(); assert seed != '300'
    alts = visit.page.eval_on_selector_all('img', 'all => all.filter(i => i.offsetParent).map(i => i.alt)'); assert alts[0].endswith(f'(seed {seed})')   # field and pictures agree

def test_code_is_copied(visit):
    visit.button('Copy').filter(visible=True).click(); visit.page.get_by_role('button', name=re.compile('^(Copied|Selected: press Ctrl.C)$')).filter(visible=True).wait_for()
    visit.page.get_by_label('code for').select_option('picture 2'); visit.button('Copy').filter(visible=True).wait_for(); readable(visit)   # other code, and again to be copied

def test_words_and_suggestion(visit):
    visit.field('prompt').fill('a gigantic ruby house'); visit.page.get_by_text('gigantic (?)').wait_for()
    visit.press('Use these words'); until(lambda: 'ruby' not in visit.field('prompt').input_value()); visit.page.get_by_text('all known').wait_for()

def test_hostile_words_are_words(visit):
    visit.field('prompt').fill(HOSTILE); visit.press('Generate'); visit.page.locator('figcaption').filter(has_text='<script>window.hacked=1</script>').first.wait_for()
    assert visit.page.evaluate('window.hacked') is None and visit.page.title() != '' and visit.page.locator('img[src="x"]').count() == 0

def test_picture_grows_by_click_and_is_saved(visit):
    image = visit.page.locator('.pg-row img').first; small = image.bounding_box()['width']; image.click()
    until(lambda: image.bounding_box()['width'] > 2*small); image.click(); until(lambda: image.bounding_box()['width'] == small)
    with visit.page.expect_download() as d: visit.page.get_by_role('link', name='save', exact=True).first.click()
    assert Path(d.value.path()).read_bytes()[:4] == b'\x89PNG' and re.fullmatch(r'[\w-]+\.png', d.value.suggested_filename)
    with visit.page.expect_download() as d: visit.page.get_by_role('link', name='save all').click()
    assert Path(d.value.path()).read_bytes()[:2] == b'PK'

def test_error_is_seen_and_the_next_click_works(visit):
    visit.field('prompt').fill('zzz qqq'); visit.press('Generate'); visit.told('no word of'); readable(visit)
    visit.field('prompt').fill('a blue house'); generate(visit); visit.told('4 pictures')

def test_scrubber(visit):
    visit.page.get_by_role('tab', name='Interpolation').click(); visit.field('from').fill(HOUSE); visit.field('to').fill(STAR)
    visit.press('Walk'); visit.told('16 pictures'); picture = lambda: visit.images()[0]
    first, handle = picture(), visit.page.get_by_role('slider', name='place').locator('visible=true'); box = handle.bounding_box()
    visit.page.mouse.move(box['x'] + 5, box['y'] + 5); visit.page.mouse.down(); visit.page.mouse.move(box['x'] + 100, box['y'] + 5, steps=5); visit.page.mouse.up()
    until(lambda: picture() != first); second = picture(); handle.press('ArrowRight'); until(lambda: picture() != second); third = picture()
    visit.press('play or pause'); until(lambda: picture() not in (second, third)); visit.press('play or pause'); readable(visit); visit.shoot('interpolation')
    strip = visit.page.locator('img[alt^="from "]').locator('visible=true'); wide = strip.bounding_box()['width']; strip.click()   # a wide picture does not shrink by a click
    until(lambda: strip.evaluate('i => i.closest("details").open')); assert strip.bounding_box()['width'] >= wide - 1; strip.click()
    with visit.page.expect_download() as d: visit.page.get_by_role('link', name='save walk.gif').click()
    assert Path(d.value.path()).read_bytes()[:3] == b'GIF'

def test_app_stops_cleanly(app, visit):
    children = subprocess.run(['ps', '-eo', 'pid,ppid'], capture_output=True, text=True).stdout
    tree, todo = [], [app.pid]
    while todo:
        parent = todo.pop(); mine = [int(a) for a, b in (l.split() for l in children.splitlines()[1:]) if int(b) == parent]; tree += mine; todo += mine
    assert len(tree) >= 2   # Voila and a kernel
    start = time.monotonic(); app.send_signal(signal.SIGINT); out, err = app.communicate(timeout=30)
    assert (app.returncode, err.strip().split('\n')[-1]) == (130, 'stopped') and 'Traceback' not in err and time.monotonic() - start < 15
    until(lambda: not any(Path(f'/proc/{p}').exists() for p in tree))

# --- training, captions and data in Voila

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A folder of pictures with captions, one of them hostile"
    from PIL import Image
    folder = tmp_path_factory.mktemp('photos'); captions = ['a red square', HOSTILE, 'a blue square']
    for i, colour in enumerate(('firebrick', 'seagreen', 'navy')): Image.new('RGB', (64, 64), colour).save(folder/f'{i}.png')
    (folder/'metadata.jsonl').write_text(''.join(json.dumps(dict(file_name=f'{i}.png', text=c)) + '\n' for i, c in enumerate(captions)))
    return folder

WORKSHOP = """
import sys; sys.path.append({tests!r})
import ipywidgets
from promptgan import TextToImagePipeline, text_gan_learner
from promptgan.widgets import ArchitectureChooser, CaptionReview, Dashboard, DatasetBrowser, WordAttention, probe_preset
from tinymodel import tiny_pipeline
tiny, data = tiny_pipeline(64); pipe = TextToImagePipeline.from_pretrained({model!r})
learn = text_gan_learner(data, 'nano', out={run!r}, words=tiny.words, bs=4, precision='fp32', progress=False, sample_seconds=.7)
parts = [Dashboard(learn, minutes=10, every=.3), CaptionReview({photos!r}), DatasetBrowser({photos!r}), WordAttention(pipe, {house!r}),
         ArchitectureChooser(seconds=30, measure=lambda preset, seconds, **kw: probe_preset('nano', .1, bs=4))]   # the large ones take long
ipywidgets.Tab([p.box for p in parts], titles=[p.title for p in parts])
"""

@pytest.fixture(scope='module')
def workshop(model, photos, context, tmp_path_factory):
    from promptgan.appcli import Server, write_page
    folder = tmp_path_factory.mktemp('workshop'); code = WORKSHOP.format(model=str(model), house=HOUSE, tests=str(Path(__file__).parent), run=str(folder/'run'), photos=str(photos))
    with Server(write_page(folder/'page', code)) as server:
        v = Visit(context, server.url, 'Start'); v.run = folder/'run'; yield v; v.page.close()

def tab(visit, name): visit.page.get_by_role('tab', name=name).click()

def test_start_watch_pause_stop(workshop):
    v = workshop; v.press('Start'); v.press('Start') if v.button('Start').is_enabled() else None; v.told('training')
    v.page.locator('img[alt^="curves"]').wait_for(); v.page.get_by_text(re.compile(r'step \d+ \|')).wait_for()   # curves come while it trains
    v.press('Pause'); v.told('paused'); time.sleep(1.); rows = (v.run/'metrics.jsonl').read_bytes(); time.sleep(1.); assert (v.run/'metrics.jsonl').read_bytes() == rows
    v.press('Start'); until(lambda: (v.run/'metrics.jsonl').read_bytes() != rows); until(lambda: len(list((v.run/'samples').glob('*.png'))) > 1)
    v.page.get_by_role('slider', name='moment').locator('visible=true').press('Home'); readable(v); v.shoot('dashboard')
    start = time.monotonic(); v.press('Stop'); v.told('stopped at step'); print(f'\nstop: {time.monotonic() - start:.1f} s'); assert time.monotonic() - start < 2*PATIENCE
    assert list((v.run/'checkpoints').glob('step_*'))

def test_data_browser(workshop):
    v = workshop; tab(v, 'Data set'); v.page.get_by_label('search').filter(visible=True).fill('blue'); v.page.get_by_text('1 to 1 of 1').wait_for()
    v.press('Check the folder'); v.told('usable pictures'); readable(v); v.page.get_by_label('search').filter(visible=True).fill(''); v.page.get_by_text('1 to 3 of 3').wait_for()
    assert v.page.evaluate('window.hacked') is None; v.shoot('browse')

def test_correct_a_caption(workshop, photos):
    v = workshop; tab(v, 'Caption review'); rows = lambda: [json.loads(l) for l in (photos/'metadata.jsonl').read_text().splitlines()]
    v.page.get_by_label('captions, one a line').fill('a red square\na <b>crimson</b> square'); v.press('Accept (a)')
    until(lambda: rows()[0].get('review') == 'accepted'); assert rows()[0]['captions'] == ['a red square', 'a <b>crimson</b> square']
    until(lambda: v.page.get_by_label('captions, one a line').input_value() == HOSTILE)   # the next picture; text in a field is text
    v.page.locator('.pg-fig figcaption').filter(visible=True).click(); v.page.keyboard.press('p'); v.page.locator('figcaption').filter(has_text='crimson').first.wait_for()
    readable(v); v.shoot('review')
    v.page.keyboard.down('n'); v.page.keyboard.down('n'); v.page.keyboard.up('n')   # a key that is held moves by one
    until(lambda: v.page.get_by_label('captions, one a line').input_value() == HOSTILE); v.page.keyboard.press('r')   # keys
    until(lambda: rows()[1].get('review') == 'rejected'); assert 'text' not in rows()[1] and rows()[1]['rejected_captions'] == [HOSTILE]
    assert v.page.evaluate('window.hacked') is None

def test_attention(workshop):
    v = workshop; tab(v, 'Attention to words'); v.press('Leave out each word'); v.told('15 words'); assert len(v.images()) == 16; readable(v); v.shoot('attention')

def test_chooser(workshop):
    v = workshop; tab(v, 'Which networks?'); v.button('Probe 30 s').wait_for(); v.shoot('chooser')   # before the probe, which is a stand-in here
    v.press('Probe 30 s'); v.told('measured 5 presets'); v.page.get_by_label('preset').select_option('nano')
    v.page.get_by_text("preset='nano'").wait_for(); readable(v)

# --- JupyterLab

LAB = dict(voila=['voila.server_extension'], jupytext=['jupyterlab_jupytext'], lsp=['jupyter_lsp'])   # of other programs: they only make it slow

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab with a folder and settings of its own: no question about news, nothing of other programs"
    if not find_spec('jupyterlab'): pytest.skip('no JupyterLab here: pip install "promptgan[browser]"')
    from promptgan.appcli import _free_port
    folder, config, port = tmp_path_factory.mktemp('lab'), tmp_path_factory.mktemp('labconfig'), _free_port(8877); (config/'labconfig').mkdir()
    off = ['@jupyterlab/apputils-extension:announcements', '@voila-dashboards/jupyterlab-preview', 'jupyterlab-jupytext', '@jupyterlab/lsp-extension']
    (config/'labconfig'/'page_config.json').write_text(json.dumps(dict(disabledExtensions={k: True for k in off}, buildCheck=False, buildAvailable=False)))
    (config/'jupyter_server_config.json').write_text(json.dumps(dict(ServerApp=dict(jpserver_extensions={k: False for ks in LAB.values() for k in ks}))))
    line = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token=', f'--ServerApp.root_dir={folder}',
            '--LabApp.extension_manager=readonly', '--ServerApp.log_level=WARN']
    env = {**os.environ, 'JUPYTER_CONFIG_DIR': str(config), 'JUPYTERLAB_SETTINGS_DIR': str(config/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(config/'workspaces')}
    with (config/'log').open('w') as log: process = subprocess.Popen(line, stdout=log, stderr=log, env=env, start_new_session=True)
    def answers():
        assert process.poll() is None, (config/'log').read_text()
        try: socket.create_connection(('127.0.0.1', port), .2).close(); return True
        except OSError: return False
    try: until(answers, 60); yield folder, f'http://127.0.0.1:{port}/lab/tree/'
    finally: process.terminate(); process.wait(20)

def test_jupyterlab(lab, context, model):
    folder, url = lab; source = ["from promptgan import Playground\n", f"Playground({str(model)!r}, 'a red house')"]
    cell = dict(cell_type='code', id='a', metadata={}, outputs=[], execution_count=None, source=source)
    (folder/'a.ipynb').write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=dict(name='python3', display_name='Python 3')), nbformat=4, nbformat_minor=5)))
    page = context.new_page(); page.goto(url + 'a.ipynb', wait_until='domcontentloaded', timeout=60_000*PATIENCE)
    page.get_by_text('Python 3 (ipykernel) | Idle').wait_for(timeout=60_000*PATIENCE)   # a cell run before the kernel is there is forgotten, without a word
    page.locator('.jp-CodeCell .cm-content').first.click(); page.keyboard.press('Shift+Enter')
    go = page.locator('.jp-OutputArea .widget-button').filter(has_text='Generate'); go.wait_for(timeout=60_000*PATIENCE); go.click()
    page.locator('.jp-OutputArea img[alt="a red house (seed 3)"]').wait_for(); page.close()
