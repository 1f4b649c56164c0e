"Batch mode and its ledger on bad days: odd names, drives without locks, kills, lost batches; each test fails without our handling"
import errno, json, os, signal, sqlite3, time
import pytest
from PIL import Image
from promptgan import batch
from promptgan.album import LEDGER
from promptgan.base import CaptionError, LLMError
from promptgan.batch import collect, submit
from promptgan.bulk import caption_folder
from promptgan.captions import ChatGPTCaptioner, TemplateCaptioner
from promptgan.ledger import Ledger
from promptgan.rewrite import ChatGPTRewriter

def album(root, n=6):
    "A folder of `n` pictures; the label of each is its own"
    for i in range(n):
        p = root/f'item_{i}'/'p.png'; p.parent.mkdir(parents=True); Image.new('RGB', (8, 8), (i, i, 99)).save(p)
    return root

def captioner(s, **kw): return ChatGPTCaptioner(n=2, **{'base_url': s.url, 'backoff': .01, 'prices': {'gpt-6-luna': [1., 2.]}} | kw)

def rows(folder): return {r['file_name']: r['captions'] for r in map(json.loads, (folder/'metadata.jsonl').read_text().splitlines())}

def aged(folder, id):
    "As if a batch had been sent longer ago than it can take"
    book = Ledger(folder/LEDGER); book.batch(id, dict(book.batch(id), time=0)); book.close()

def ledger(folder):
    "(counts, USD spent, batches)"
    book = Ledger(folder/LEDGER)
    try: return book.counts(), book.spent, book.batch(None)
    finally: book.close()

def finished(folder, cap):
    "Let the server work through all batches"
    for _ in range(2): status = batch.status(folder, cap)
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

# --- money

def test_c9_an_answer_without_usage_costs_what_was_set_aside(serve, tmp_path):
    s, plain = serve(batch_faults={1: 'nousage'}), serve(); spent = []
    for i, x in enumerate((s, plain)):
        folder = album(tmp_path/f'{i}', 2); submit(folder, captioner(x)); aside = ledger(folder)[1]
        finished(folder, captioner(x)); r = collect(folder, captioner(x)); spent.append(r.usd)
        assert len(r.captions) == 2 and ledger(folder)[1] == pytest.approx(r.usd)
    assert spent[0] == pytest.approx(aside/2 + spent[1]/2, rel=.02) and spent[0] > 1.5*spent[1]

def test_the_price_is_that_of_the_submission(serve, tmp_path):
    s = serve(); spent = []
    for i, other in enumerate(({}, dict(prices={'gpt-6-luna': [0., 0.]}))):
        folder = album(tmp_path/f'{i}', 2); submit(folder, captioner(s)); cap = captioner(s, **other); finished(folder, cap); spent.append(collect(folder, cap).usd)
    assert spent[0] == spent[1] > 0

@pytest.mark.parametrize('shots', [0, 2])
def test_rewriters_with_examples_get_their_answers(shots, serve, tmp_path):
    s = serve(); cap = ChatGPTRewriter(n=2, shots=shots, base_url=s.url, temperature=.2); folder = album(tmp_path, 3)
    submit(folder, cap); finished(folder, cap); r = collect(folder, ChatGPTRewriter(base_url=s.url))
    assert len(r.captions) == 3 and r.failed == {}
    assert all(f'item {n[5]}' in c for n, cs in r.captions.items() for c in cs)

# --- kills

def test_killed_while_pictures_are_marked(serve, tmp_path, monkeypatch):
    s = serve(); cap = captioner(s); folder = album(tmp_path)
    killed(monkeypatch, "'batch',", 3, lambda: submit(folder, cap))
    assert ledger(folder)[0] == dict(claimed=6) and list(submit(folder, cap).values()) == [6]      # none is stranded
    finished(folder, cap); assert collect(folder, cap).new == 6

@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError, CaptionError])   # Ctrl-C, a full disk
def test_interrupted_while_pictures_are_marked(error, serve, tmp_path, monkeypatch):
    cap = captioner(serve()); folder = album(tmp_path)
    def stop(*args, **kw): raise error('here')
    with monkeypatch.context() as m:
        m.setattr(Ledger, 'batch', stop)
        with pytest.raises(error): submit(folder, cap)
    assert ledger(folder) == ({}, 0, {}) and list(submit(folder, cap).values()) == [6]

@pytest.mark.parametrize('word, nth', [("'done',", 3), ("'done',", 6), ("'failed',", 1), ('UPDATE attempts', 1), ('INSERT OR IGNORE INTO written', 1), ('INSERT INTO batches', 1)])
def test_killed_while_collecting(word, nth, serve, tmp_path, monkeypatch):
    s = serve(batch_faults={6: 'badjson', 7: 'expired'}); cap, total = captioner(s), []
    for name in ('whole', 'killed'):
        folder = album(tmp_path/name, 8); submit(folder, cap); finished(folder, cap)
        if name == 'killed': killed(monkeypatch, word, nth, lambda: collect(folder, cap))
        r = collect(folder, cap); total.append(r.usd)
        assert (r.new, len(r.failed), r.todo) == (6, 1, 1) and len(rows(folder)) == 6 and all(len(c) == 2 for c in rows(folder).values())
        assert ledger(folder)[1] == pytest.approx(r.usd) and collect(folder, cap).new == 0
    assert total[0] == pytest.approx(total[1]) and total[0] > 0

# --- what the server forgets, and what it did all the same

def test_a_batch_that_is_gone_does_not_block_the_others(serve, tmp_path):
    s = serve(); cap = captioner(s); folder = album(tmp_path); first, second = submit(folder, cap, max_mb=.0055)
    finished(folder, cap); kept = ledger(folder)[1]; del s.batches[first]
    status = batch.status(folder, cap); assert (status[first]['status'], status[second]['status']) == ('lost', 'completed')
    r = collect(folder, cap); n = len(r.captions)
    assert 0 < n < 6 and r.stopped == f'{6 - n} in {first} (lost)' and ledger(folder)[0] == dict(done=n, batch=6 - n)   # perhaps another key knows it
    aged(folder, first); collect(folder, cap); assert ledger(folder)[0] == dict(done=n)
    assert r.usd < ledger(folder)[1] < kept                                     # what it cost is not known
    assert 'does not know' in batch.status(folder, cap)[first]['why'] and collect(folder, cap).stopped == ''
    assert caption_folder(folder, cap, progress=False).new == 6 - n and r.usd < ledger(folder)[1]

def test_answers_that_are_gone(serve, tmp_path):
    s = serve(batch_faults={0: 'error'}); cap = captioner(s); folder = album(tmp_path); first, second = submit(folder, cap, max_mb=.0055)
    finished(folder, cap); before = ledger(folder)[1]; s.files.pop(s.batches[first]['output_file_id'])   # the other file, of errors, is there
    r = collect(folder, cap); n = r.total - len(r.captions) - len(r.failed)
    assert len(r.failed) == 2 and n > 0 and len(r.captions) > 0 and r.stopped == f'{n} in {first} (lost)'
    assert before/2 < ledger(folder)[1] < before and ledger(folder)[0] == dict(done=len(r.captions), failed=2)
    assert caption_folder(folder, cap, progress=False).new == n and collect(folder, cap).stopped == ''

def test_a_batch_of_another_server_is_not_lost(serve, tmp_path):
    s, other = serve(), serve(); folder = album(tmp_path); (id,) = submit(folder, captioner(s)); there = captioner(s).chat.host
    assert collect(folder, captioner(other)).stopped == f'6 in {id} (at {there})' and ledger(folder)[0] == dict(batch=6)
    finished(folder, captioner(s)); assert collect(folder, captioner(s)).new == 6

@pytest.mark.parametrize('status', [500, 502, 503, 409])
def test_an_error_at_the_start_is_no_proof_that_nothing_started(status, serve, tmp_path):
    s = serve(starts=[status]); cap = captioner(s); folder = album(tmp_path)
    with pytest.raises(LLMError, match='perhaps batch new-.* was started: status looks for it'): submit(folder, cap)
    assert ledger(folder)[0] == dict(batch=6) and ledger(folder)[1] > 0 and submit(folder, cap) == {} and len(s.batches) == 1
    assert list(finished(folder, cap)) == ['batch_1'] and collect(folder, cap).new == 6

def test_an_error_that_proves_that_nothing_started(serve, tmp_path):
    s = serve(starts=[400]); cap = captioner(s); folder = album(tmp_path)
    with pytest.raises(LLMError): submit(folder, cap)
    assert ledger(folder)[:2] == ({}, 0) and collect(folder, cap).stopped == ''

@pytest.mark.parametrize('others, pages', [(0, 1), (99, 1), (100, 2), (250, 3)])
def test_a_batch_is_found_behind_many_others(others, pages, serve, tmp_path):
    s = serve(starts=[500]); cap = captioner(s); folder = album(tmp_path, 2)
    with pytest.raises(LLMError): submit(folder, cap)
    for i in range(others): s.start_batch(dict(input_file_id='file-1', endpoint='/v1/chat/completions', metadata=None))
    assert list(batch.status(folder, cap)) == ['batch_1'] and s.pages == pages

def test_the_search_for_a_batch_ends(serve, tmp_path, monkeypatch):
    s = serve(starts=[500]); cap = captioner(s); folder = album(tmp_path, 2)
    with pytest.raises(LLMError): submit(folder, cap)
    jobs = [dict(b, metadata=None) for b in s.batches.values()]; monkeypatch.setattr(s, 'page', lambda q: dict(object='list', data=jobs))   # knows no pages
    assert [b['status'] for b in batch.status(folder, cap).values()] == ['lost'] and ledger(folder)[0] == dict(batch=2)
    monkeypatch.setattr(s, 'page', lambda q: {}['no list'])   # 404
    (id, state), = ledger(folder)[2].items(); book = Ledger(folder/LEDGER); book.batch(id, dict(state, time=time.time() - 3700)); book.close()
    assert 'lost' in collect(folder, cap).stopped and ledger(folder)[0] == {}

def test_why_a_batch_failed(serve, tmp_path):
    s = serve(); cap = captioner(s); folder = album(tmp_path); (id,) = submit(folder, cap)
    why = 'Enqueued token limit reached.'; error = dict(code='token_limit_exceeded', line=None, message=why, param=None)
    s.batches[id].update(status='failed', errors=dict(object='list', data=[error, error]))
    assert batch.status(folder, cap)[id] == dict(status='failed', n=6, completed=0, failed=0, why=why)
    assert collect(folder, cap).stopped == f'6 in {id} (failed: {why})' and ledger(folder)[:2] == ({}, 0)
    assert collect(folder, cap).stopped == '' and caption_folder(folder, cap, progress=False).new == 6

# --- the limits of a file

@pytest.mark.parametrize('most, parts', [(3, [3, 3, 1]), (7, [7]), (1, [1]*7), (6, [6, 1])])
def test_a_file_has_so_many_lines_at_most(most, parts, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, 'MAX_LINES', most)
    s = serve(); cap = captioner(s); folder = album(tmp_path, 7)
    assert list(submit(folder, cap).values()) == parts == [s.files[b['input_file_id']].count(b'\n') for b in s.batches.values()]
    finished(folder, cap); r = collect(folder, cap)
    assert r.new == 7 and all(f'item {n[5]}' in c for n, cs in r.captions.items() for c in cs) and r.spent == pytest.approx(r.usd)

def test_a_ledger_elsewhere(serve, tmp_path):
    s = serve(); cap = captioner(s); folder, elsewhere = album(tmp_path/'a', 2), tmp_path/'b.sqlite'
    assert list(submit(folder, cap, ledger=elsewhere).values()) == [2]
    for _ in range(2): batch.status(folder, cap, ledger=elsewhere)
    assert collect(folder, cap, ledger=elsewhere).new == 2 and not (folder/LEDGER).exists()

def test_a_key_of_another_project_throws_nothing_away(serve, tmp_path):
    s = serve(); cap = captioner(s); folder = album(tmp_path); (id, n), = submit(folder, cap).items(); finished(folder, cap)
    away = s.batches.pop(id); assert collect(folder, cap).new == 0 and submit(folder, cap) == {} and caption_folder(folder, cap, progress=False).new == 0
    s.batches[id] = away; assert collect(folder, cap).new == n == 6

def test_pictures_that_change_while_a_batch_is_out(serve, tmp_path):
    s = serve(); cap = captioner(s); folder = album(tmp_path); submit(folder, cap); finished(folder, cap)
    a, b, c = sorted(p for p in folder.rglob('*.png'))[:3]; name = lambda p: p.relative_to(folder).as_posix()
    one, two = a.read_bytes(), b.read_bytes(); a.write_bytes(two); b.write_bytes(one); c.unlink()
    r = collect(folder, cap); assert sorted(r.failed) == [name(a), name(b), name(c)] and all('changed' in w for w in r.failed.values())
    assert not {name(a), name(b), name(c)} & set(rows(folder)) and len(rows(folder)) == 3
    assert caption_folder(folder, cap, progress=False).new == 2 and all(label in c for n, cs in rows(folder).items() for c in cs for label in [n.split('/')[0].replace('_', ' ')])

def test_a_corrected_caption_is_not_sent_again(serve, tmp_path):
    s = serve(); cap = captioner(s); folder = album(tmp_path); caption_folder(folder, cap, progress=False); file = folder/'metadata.jsonl'
    lines = [json.loads(l) for l in file.read_text().splitlines()]; lines[0]['captions'][0] = lines[0]['text'] = 'corrected by a person'
    file.write_text('\n'.join(map(json.dumps, lines))); assert submit(folder, cap) == {}

def test_failed_ones_are_sent_again_when_asked_for(serve, tmp_path):
    s = serve(by=lambda o: 'badrequest'); cap = captioner(s); folder = album(tmp_path); caption_folder(folder, cap, progress=False)
    assert submit(folder, cap) == {} and sum(submit(folder, cap, retry_failed=True).values()) == 6

def test_collect_counts_what_was_there(serve, tmp_path):
    s = serve(); cap = captioner(s); folder = album(tmp_path); caption_folder(folder, cap, limit=2, progress=False)
    submit(folder, cap); finished(folder, cap); r = collect(folder, cap); assert (len(r.captions), r.new, r.todo) == (6, 4, 0)
