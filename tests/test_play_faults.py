"What a person sees and saves in the widgets is what happened: code that runs, fields that agree with pictures, captions that nobody loses (W1-W3)"
import json, re, select, shutil, signal, socket, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
import pytest
from PIL import Image
from faultserver import FaultServer
from promptgan.captions import ChatGPTCaptioner, TemplateCaptioner
from promptgan.core import CaptionError
from promptgan.items import printable
from promptgan.pipeline import TextToImagePipeline
from promptgan.widgets import CaptionReview, Interpolation, Playground, WordAttention
from promptgan import frame, interpolation
from tinymodel import tiny_pipeline

@pytest.fixture(scope='module')
def pipe(): return tiny_pipeline(64)[0]

class Slow:
    "A pipeline that takes its time"
    def __init__(self, pipe, seconds): self.pipe, self.seconds, self.asked = pipe, seconds, []
    def __getattr__(self, name): return getattr(self.pipe, name)
    def __call__(self, prompt, n, noise, *args):
        self.asked.append(noise[0].initial_seed()); time.sleep(self.seconds); return self.pipe(prompt, n, noise, *args)

# --- playground

def test_the_code_of_a_picture_draws_it(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); pipe.save_pretrained('model'); loaded = TextToImagePipeline.from_pretrained('model')
    assert loaded.source == 'model' and pipe.source is None
    for made in (loaded, Path('model'), pipe):
        play = Playground(made, 'a red house', n=2, seed=3); play.go.click(); assert play.wait() and play.message == '2 pictures'
        *lines, last = play.drawing.code(1).split('\n'); world = dict(pipe=pipe) if made is pipe else {}
        exec('\n'.join(lines), world); assert eval(last, world).tobytes() == play.drawing.images[1].tobytes()
    loaded.save_pretrained('again'); assert all('model' not in p.read_text() for p in Path('again').rglob('config.json'))   # it is where it came from, not what it is

@pytest.mark.parametrize('seconds', [.3, 0.])
def test_fifty_clicks_on_dice_are_one_job_of_the_seed_shown(pipe, seconds):
    slow = Slow(pipe, seconds); play = Playground(slow, 'a red house', n=1)
    for _ in range(50): play.dice.click(); time.sleep(.002)
    assert play.wait() and play.jobs == 1 and slow.asked == [play.seed.value] and play.drawing.seed == play.seed.value
    time.sleep(.5); play.dice.click(); play.wait(); assert play.jobs == 2 and slow.asked[1] == play.seed.value != slow.asked[0]

def test_an_example_can_be_chosen_again(pipe):
    play = Playground(pipe, examples=['a red house', 'a blue boat'])
    play.recent.value = 'a blue boat'; assert play.prompt.value == play.recent.value == 'a blue boat'
    play.prompt.value = 'a blue boat at night'; play.recent.value = 'a blue boat'; assert play.prompt.value == 'a blue boat'

def test_emoji_and_persian_stay_whole(pipe):
    words = '\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 red'; play = Playground(pipe, words, n=1); play.go.click(); play.wait()
    assert f'alt="{words} (seed 0)"' in play.pictures.value
    for c in '\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u200b\ufeff': assert printable(c).startswith('\\u')   # these change what one reads

# --- interpolation and attention

def test_a_stopped_walk_says_where_it_is(pipe, monkeypatch):
    it = Interpolation(pipe, 'a red house', 'a blue boat', steps=200); real = pipe._draw
    def slow(*args): time.sleep(.3); return real(*args)
    monkeypatch.setattr(pipe, '_draw', slow); it.go.click(); time.sleep(.1); it.stop_button.click(); assert it.wait() and it.message == '16 pictures, stopped early'
    it.at.value = 15; assert it.walk.caption(15) == '92% a red house / 8% a blue boat' and it.walk.caption(15) in it.view.value and it.walk.caption(15) in it.film.value
    assert interpolation.walk(pipe, 'a red house', 'a blue boat', steps=4).caption(3) == '0% a red house / 100% a blue boat'

def test_interpolation_tells_unknown_words(pipe):
    it = Interpolation(pipe, 'a gigantic <b>house</b>', 'a blue boat'); assert 'gigantic (?)' in it.words.value and '<b>' not in it.words.value and 'boat' not in it.words.value
    it.b.value = 'a ruby boat'; assert 'ruby (?)' in it.words.value; it.a.value, it.b.value = 'a red house', ''; assert it.words.value == ''

def test_attention_shows_what_the_judge_says(pipe):
    look = WordAttention(pipe, 'a red house'); look.go.click(); look.wait(); e = look.effects
    assert len(e.score) == 3 and all(f'{-s:+.2f}' in look.judged.value for s in e.score) and 'judge' in look.verdict.value and look.judged.value in e._repr_html_()
    alone = WordAttention(TextToImagePipeline(pipe.words, pipe.generator), 'a red house'); alone.go.click(); alone.wait(); assert (alone.judged.value, alone.verdict.value) == ('', '')

# --- caption review

@pytest.fixture
def photos(tmp_path):
    for i, colour in enumerate(('red', 'blue', 'green')): Image.new('RGB', (16, 16), colour).save(tmp_path/f'{i}.png')
    (tmp_path/'metadata.jsonl').write_text(''.join(json.dumps(dict(file_name=f'{i}.png', text=f'old {i}')) + '\n' for i in range(3)))
    return tmp_path

def rows(folder): return [json.loads(line) for line in (folder/'metadata.jsonl').read_text().splitlines()]
def drafts(folder): return CaptionReview(folder, TemplateCaptioner('{caption} again'))
def ask(review): review.buttons[4].click(); assert review.wait(30)

@pytest.mark.parametrize('leave', ['next', 'previous', 'filter', 'search', 'reject'])
def test_a_draft_is_saved_by_accept_only(photos, leave):
    review = drafts(photos); ask(review); assert review.text.value == 'old 0 again'
    if leave == 'filter': review.which.value = 'to do'
    elif leave == 'search': review.search.value = 'old'
    else: getattr(review, leave)()
    row = rows(photos)[0]; assert (row.get('rejected_captions') if leave == 'reject' else [row['text']]) == ['old 0'] and 'again' not in (photos/'metadata.jsonl').read_text()
    review.search.value, review.which.value, review.at = '', 'all', 0; review._show(); assert review.text.value == 'old 0'
    if leave == 'reject': return
    ask(review); review.accept(); assert rows(photos)[0]['captions'] == ['old 0 again'] and rows(photos)[0]['review'] == 'accepted'

def test_what_was_typed_is_kept(photos):
    class Waits:
        def read(self, shot): return b''
        def ask(self, *args): time.sleep(.4); return {0: ['an answer']}, SimpleNamespace(usd=0.)
    review = CaptionReview(photos, Waits()); review.text.value = 'my words'; ask(review)
    assert rows(photos)[0]['text'] == 'my words' and review.text.value == 'an answer'          # before asking
    review.text.value = 'my words, better'; review.buttons[4].click(); review.text.value = 'typed meanwhile'; assert review.wait(30)
    assert review.text.value == 'typed meanwhile' and 'an answer' in review.message            # while the server answers
    review.pressed('n'); assert rows(photos)[0]['captions'] == ['typed meanwhile']
    review.buttons[4].click(); review.pressed('n'); assert review.wait(30) and review.text.value == 'old 2' and '1.png' in review.message
    review.pressed('p'); assert review.text.value == 'an answer'; review.pressed('n'); assert rows(photos)[1]['text'] == 'old 1'

def test_a_burst_decides_on_one_picture(photos):
    review = drafts(photos)
    for _ in range(50): review.buttons[2].click()
    assert [r.get('review') for r in rows(photos)] == ['accepted', None, None]
    time.sleep(.3); review.pressed('r'); review.pressed('r'); assert [r.get('review') for r in rows(photos)] == ['accepted', 'rejected', None]
    review.pressed('p'); review.pressed('a'); assert rows(photos)[1]['review'] == 'accepted'   # one that was gone to

@pytest.mark.skipif(not shutil.which('node'), reason='no node here')
def test_a_held_key_is_pressed_once(tmp_path):
    (tmp_path/'keys.mjs').write_text(frame._SCRIPT + '''
let hear; const sent = [], root = { addEventListener: (_, f) => hear = f, removeEventListener() {}, querySelectorAll: () => [] };
const end = render({ model: { get: () => ['a'], send: m => sent.push(m.key) }, el: { style: {}, closest: () => root } });
setTimeout(() => { for (const [key, repeat] of [['a', false], ['a', true], ['a', true], ['x', false]]) hear({ key, repeat, target: { matches: () => false }, preventDefault() {} });
  console.log(sent.join()); end() }, 400)''')
    assert subprocess.run(['node', tmp_path/'keys.mjs'], capture_output=True, text=True, timeout=30).stdout.strip() == 'a'

def gpt(server, **kw): return ChatGPTCaptioner(n=2, base_url=server.url, model='big', prices={'big': [2.5, 10]}, **kw)

def test_what_a_folder_has_cost_is_shown(photos):
    assert CaptionReview(photos).cost.value == '' and not (photos/'.promptgan').exists()
    with FaultServer() as s: first = CaptionReview(photos, gpt(s)); ask(first); usd = float(re.search(r'([\d.]+) for this folder', first.message)[1])
    assert usd > 0 and f'{usd:.4f} USD' in first.cost.value == CaptionReview(photos).cost.value
    with FaultServer(script=['badjson']*9) as s: bad = CaptionReview(photos, gpt(s)); ask(bad)
    now = float(re.search(r'([\d.]+) USD so far', bad.cost.value)[1]); assert bad.error is not None and now > usd and f'{now:.4f} for this folder' in bad.message
    class Nothing:   # an answer, paid for, without a caption
        def read(self, shot): return b''
        def ask(self, jobs, book, stop): book.settle(book.reserve(.01), .01); return {}, None
    none = CaptionReview(photos, Nothing()); ask(none); assert '0.0100 USD' in none.message and isinstance(none.error, CaptionError)

def test_stop_does_not_wait_for_a_server(photos):
    with FaultServer(script=['hang']) as s:
        review = CaptionReview(photos, gpt(s, deadline=2.)); review.text.value = 'mine'; review.buttons[4].click()
        while not s.asked: time.sleep(.02)
        start = time.monotonic(); review.stop_button.click(); assert review.wait(10) and time.monotonic() - start < 2 and 'stopped waiting' in review.message
        ask(review); assert '2 new captions' in review.message and len(s.asked) == 2                # the next question is another one
        time.sleep(4); assert len(s.asked) == 2                                                    # and the first one is not asked again

# --- app

@pytest.mark.skipif(not find_spec('voila') or not hasattr(signal, 'SIGHUP'), reason='pip install "promptgan[browser]"')
def test_a_closed_terminal_ends_the_app(pipe, tmp_path):
    pipe.save_pretrained(tmp_path/'model')
    line = [sys.executable, '-c', 'import promptgan.cli as c; c.main()', 'app', '--model', 'model', '--port', '0', '--no-browser']
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); line[-2] = str(s.getsockname()[1])
    heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)   # also where the tests themselves run under nohup
    app = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True, preexec_fn=heard); tree = []
    try:
        assert select.select([app.stdout], [], [], 90)[0] and 'http' in app.stdout.readline()
        import psutil
        tree = psutil.Process(app.pid).children(recursive=True); assert tree
        for _ in range(2): app.send_signal(signal.SIGHUP); time.sleep(.1)   # from the terminal and from the shell in it
        out, err = app.communicate(timeout=30); assert app.returncode == 129 and 'Traceback' not in err
        assert psutil.wait_procs(tree, 5)[1] == []
    finally:
        for p in [app, *tree]:
            if p.poll() is None if p is app else p.is_running(): p.kill()
