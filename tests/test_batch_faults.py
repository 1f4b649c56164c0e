"Batch mode and its ledger on bad days: odd names, drives without locks, kills, lost batches; each test fails without our handling"
import errno, json, os, signal, sqlite3, time
import pytest
from PIL import Image
from faultserver import FaultServer
from promptgan import batch
from promptgan.album import LEDGER
from promptgan.base import CaptionError, LLMError
from promptgan.batch import batch_status, collect, submit
from promptgan.bulk import caption_folder
from promptgan.captions import ChatGPTCaptioner, TemplateCaptioner
from promptgan.ledger import Ledger
from promptgan.rewrite import ChatGPTRewriter

@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ('OPENAI_BASE_URL', 'PROMPTGAN_LLM_MODEL', 'PROMPTGAN_PRICES'): monkeypatch.delenv(name, raising=False)

@pytest.fixture
def serve():
    "A function that starts a server; all are stopped at the end"
    started = []
    def start(**kw): started.append(FaultServer(**kw).__enter__()); return started[-1]
    yield start
    for s in started: s.__exit__()

def album(root, n=6):
    "A folder of `n` pictures; the label of each is its own"
    for i in range(n):
        p = root/f'item_{i}'/'p.png'; p.parent.mkdir(parents=True); Image.new('RGB', (8, 8), (i, i, 99)).save(p)
    return root

def captioner(s, **kw): return ChatGPTCaptioner(n=2, **{'base_url': s.url, 'backoff': .01, 'prices': {'gpt-6-luna': [1., 2.]}} | kw)

def rows(folder): return {r['file_name']: r['captions'] for r in map(json.loads, (folder/'metadata.jsonl').read_text().splitlines())}

def ledger(folder):
    "(counts, USD spent, batches)"
    book = Ledger(folder/LEDGER)
    try: return book.counts(), book.spent, book.batch(None)
    finally: book.close()

def finished(folder, cap):
    "Let the server work through all batches"
    for _ in range(2): status = batch_status(folder, cap)
    return status

def killed(monkeypatch, word, nth, do):
    "Do something in a process that is killed just before the ledger's `nth` statement with this word in it"
    pid = os.fork()
    if not pid:
        try:
            opened, seen = Ledger._open, []
            def trace(sql):
                if word in sql: seen.append(sql)
                if len(seen) == nth: os.kill(os.getpid(), signal.SIGKILL)
            def trap(book): opened(book); book._con.set_trace_callback(trace)
            monkeypatch.setattr(Ledger, '_open', trap); do()
        finally: os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL

# --- the ledger

ODD = [os.fsdecode(b'\xff.png'), 'blue \udcff\udcfe/b.png', 'lone \ud800.png', "x'ff'.png", '\\xff.png', 'Ünicode.png']

def test_names_that_are_no_text_come_back_as_they_were(tmp_path):
    book = Ledger(tmp_path/'l.sqlite')
    for i, n in enumerate(ODD): assert book.claim(f'{i}', n) == 'mine'
    for i, n in enumerate(ODD): book.finish(f'{i}', 'done', [n], reason=n, name=n)
    assert [(r['name'], r['answer'], r['reason']) for r in book.records()] == [(n, [n], n) for n in ODD] and book.claim('0', ODD[0])['name'] == ODD[0]
    book.written(lambda before: {n: [f'a {n}'] for n in ODD}); seen = []
    book.written(lambda before: seen.append(before) or {n: [f'a {n}'] for n in ODD}); book.written(lambda before: seen.append(before) or {})
    assert seen == [{n: {f'a {n}'} for n in ODD}]*2

def odd_album(root):
    "Two pictures whose names are not UTF-8"
    for name in (b'red \xff.png', b'caf\xe9/1.png'):
        p = os.fsencode(root) + b'/' + name; os.makedirs(os.path.dirname(p), exist_ok=True)
        with open(p, 'wb') as f: Image.new('RGB', (8, 8), (len(name), 0, 0)).save(f, 'PNG')
    return root

def test_pictures_with_such_names_get_captions(serve, tmp_path):
    s = serve(); cap = captioner(s); names = {os.fsdecode(n) for n in (b'red \xff.png', b'caf\xe9/1.png')}
    for i, c in enumerate((TemplateCaptioner(), cap)):
        folder = odd_album(tmp_path/f'{i}')
        assert set(caption_folder(folder, c, progress=False).captions) == names == set(rows(folder)) and caption_folder(folder, c, progress=False).new == 0
    folder = odd_album(tmp_path/'batch'); submit(folder, cap); finished(folder, cap)
    assert set(collect(folder, cap).captions) == names == set(rows(folder)) and ledger(folder)[0] == dict(done=2)

@pytest.mark.parametrize('name, text', [('SQLITE_PROTOCOL', 'locking protocol'), *[(f'SQLITE_IOERR_{n}', 'disk I/O error') for n in (
    'LOCK', 'UNLOCK', 'RDLOCK', 'CHECKRESERVEDLOCK', 'SHMOPEN', 'SHMLOCK', 'SHMMAP')]])
def test_a_drive_without_locks(name, text, tmp_path):
    book = Ledger(tmp_path/'l.sqlite'); e = sqlite3.OperationalError(text); e.sqlite_errorname = name
    with pytest.raises(CaptionError, match='drive cannot lock files.*choose ledger='):
        with book._tx(): raise e
    assert book.counts() == {}

@pytest.mark.parametrize('text', ['database is locked', 'disk I/O error'])   # what Python 3.10 tells; and sqlite calls ENOLCK 'locked'
@pytest.mark.parametrize('code', [errno.ENOLCK, errno.ENOTSUP])
def test_a_drive_without_locks_that_seems_busy(code, text, tmp_path, monkeypatch):
    fcntl = pytest.importorskip('fcntl'); book = Ledger(tmp_path/'l.sqlite'); locked = fcntl.lockf
    def lockf(*args): raise OSError(code, os.strerror(code))
    for f, says in ((lockf, 'drive cannot lock files.*choose ledger='), (locked, 'in use by another|make room')):
        monkeypatch.setattr(fcntl, 'lockf', f)
        with pytest.raises(CaptionError, match=says):
            with book._tx(): raise sqlite3.OperationalError(text)

def test_a_drive_that_denies_locks_is_not_a_damaged_ledger(tmp_path):
    book = Ledger(tmp_path/'l.sqlite')
    with pytest.raises(CaptionError, match='choose ledger='):
        with book._tx(): raise sqlite3.OperationalError('access permission denied')
    assert list(tmp_path.glob('*.bak')) == []
