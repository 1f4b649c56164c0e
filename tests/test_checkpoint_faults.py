"""Faults against saved states: kills, failing disks, flipped bytes, hostile files, locks, retention.

Killing needs many processes, so `python tests/test_checkpoint_faults.py MODE FOLDER KILLS` is a small fork server: it
imports torch once, forks children that save without pause, kills each at a random instant, and prints what it found.
"""
import builtins, copy, errno, hashlib, io, json, math, os, random, signal, subprocess, sys, time, warnings
from pathlib import Path
import pytest, torch

resource = pytest.importorskip('resource', reason='needs fork, signals and flock')

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path: sys.path.insert(0, str(ROOT))   # the server runs as a script

import promptgan.base as base
from promptgan.checkpoint import CheckpointManager, RunLock, load_state, load_tree, save_state, state_tree
from promptgan.core import CheckpointCorrupt, CheckpointError, CheckpointMismatch, PromptganError, RunLocked

# ---------------------------------------------------------------- a training that is nothing but its state

def start():
    gen = torch.Generator().manual_seed(5)
    return {'step': 0, 'x': torch.zeros(4), 'rng': gen.get_state(), 'ballast': torch.zeros(100_000)}

def advance(s):
    "One step: every value depends on all steps before"
    gen = torch.Generator(); gen.set_state(s['rng'])
    x = s['x']*.9 + torch.randn(4, generator=gen)
    step = s['step'] + 1
    return {'step': step, 'x': x, 'rng': gen.get_state(), 'ballast': torch.full((100_000,), float(step))}

def same(a, b): return all(a[k].equal(b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in start())

def naive_save(s, path):
    "What torch.save does on a slow disk: the old file is gone while the new one grows"
    torch.save(s, buffer := io.BytesIO()); data = buffer.getvalue()
    with open(path, 'wb') as f:
        for part in (data[:len(data)//2], data[len(data)//2:]): f.write(part); f.flush(); time.sleep(.005)

def child(mode, folder, pipe):
    "Train and save until killed; every success is reported"
    mgr = CheckpointManager(folder) if mode == 'ours' else None
    s = (mgr.load() or (start(), {}))[0] if mgr else start()
    os.write(pipe, b'0\n')
    while True:
        s = advance(s)
        if mgr: mgr.save(s['step'], s)
        else: naive_save(s, folder/'last.pt')
        os.write(pipe, b'%d\n' % s['step'])

def serve(mode, folder, kills):
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    dice, corrupt, lost, worst, temps, done = random.Random(0), 0, 0, 0, 0, 0
    while done < kills or mode == 'ours' and worst <= 20 and done < 10*kills:   # on a busy machine few steps fit between kills
        done += 1; r, w = os.pipe()
        pid = os.fork()
        if not pid:
            try: child(mode, folder, w)
            finally: os._exit(1)
        os.close(w)
        reports = os.read(r, 2)                       # it has loaded and begins
        time.sleep(dice.uniform(0, .02))
        os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        while more := os.read(r, 1 << 16): reports += more
        os.close(r)
        told = max(int(n) for n in reports.split(b'\n') if n)
        worst = max(worst, told)
        temps += len(list(folder.glob('.promptgan-*.tmp')))
        good = []
        for f in folder.glob('step_*' if mode == 'ours' else '*.pt'):
            try: good.append((load_state(f)[0] if mode == 'ours' else torch.load(f))['step'])
            except Exception: corrupt += 1
        lost += mode == 'ours' and max(good, default=0) < told
    out = dict(corrupt=corrupt, lost=lost, temps=temps, steps=worst)
    if mode == 'ours':
        mgr = CheckpointManager(folder)
        got, want = mgr.load()[0], start()
        while want['step'] < got['step']: want = advance(want)
        mgr.save(got['step'] + 1, advance(got))       # tidies what kills between write and delete have left
        out |= dict(equal=same(got, want), steps=got['step'], files=len(list(folder.iterdir())))
    print(json.dumps(out))

def kill_many(mode, folder, kills=40):
    cmd, env = [sys.executable, __file__, mode, str(folder), str(kills)], {**os.environ, 'OMP_NUM_THREADS': '1'}
    r = subprocess.run(cmd, capture_output=True, text=True, timeout=120, env=env)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)

def test_kills_never_corrupt(tmp_path):                                                              # T1
    found = kill_many('ours', tmp_path/'run')
    assert found['corrupt'] == 0 and found['lost'] == 0, found       # all visible files load, no success without one
    assert found['equal'] and found['steps'] > 20, found             # the much-killed run has the bits of a quiet one
    assert found['files'] == 2, found                                # nothing is left of the dead

def test_control_naive_save_does_corrupt(tmp_path):                                                  # T2
    assert kill_many('naive', tmp_path/'run', 20)['corrupt'] > 0                                     # these kills do harm

# ---------------------------------------------------------------- the n-th operation fails

class Died(BaseException): "The process is gone: nothing after this may run, not even cleaning up"

class Disk:
    "Counts operations on files and fails the n-th, in one of four ways"
    def __init__(self, n=None, how=errno.EIO): self.n, self.how, self.count, self.dead = n, how, 0, False
    def tick(self, short=None):
        if self.dead: raise Died()
        self.count += 1
        if self.count != self.n: return
        if self.how == 'die': self.dead = True; raise Died()
        if self.how == 'short':
            if short: short()
            raise OSError(errno.ENOSPC, 'No space left on device')
        raise OSError(self.how, os.strerror(self.how))
    def op(self, f):
        def g(*args, **kw): self.tick(); return f(*args, **kw)
        return g
    def open(self, path, mode='r', *args, **kw):
        if 'x' not in mode and 'w' not in mode: return builtins.open(path, mode, *args, **kw)
        self.tick()
        return _File(builtins.open(path, mode, *args, **kw), self)

class _File:
    def __init__(self, f, disk): self.f, self.disk = f, disk
    def write(self, b):
        self.disk.tick(lambda: (self.f.write(bytes(b)[:len(b)//2]), self.f.flush()))
        return self.f.write(b)
    def flush(self): self.disk.tick(); self.f.flush()
    def seek(self, *a): self.disk.tick(); return self.f.seek(*a)
    def fileno(self): return self.f.fileno()
    def __enter__(self): return self
    def __exit__(self, *a):
        self.f.close()
        if a[0] is None: self.disk.tick()              # closing can fail as well

def break_disk(monkeypatch, disk):
    monkeypatch.setattr(base, 'open', disk.open, raising=False)
    for name in ('fsync', 'replace', 'unlink', 'mkdir'): monkeypatch.setattr(os, name, disk.op(getattr(os, name)))
    monkeypatch.setattr(Path, 'unlink', disk.op(Path.unlink))

TREE = {'w': torch.arange(300.), 'opt': {0: (torch.ones(3, dtype=torch.bfloat16), 1.5)}, 'n': 7}
def tree(step): return {**TREE, 'w': TREE['w'] + step, 'n': step}

@pytest.mark.parametrize('how', [errno.ENOSPC, errno.EIO, 'short', 'die'], ids=['full', 'eio', 'short', 'die'])
def test_nth_operation_fails(tmp_path, monkeypatch, how):                                            # T3
    n = 0
    while True:
        n += 1
        folder = tmp_path/f'{how}-{n}'
        mgr = CheckpointManager(folder)
        for s in (1, 2): mgr.save(s, tree(s))
        disk, told = Disk(n, how), False
        with monkeypatch.context() as m, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            break_disk(m, disk)
            try: mgr.save(3, tree(3)); told = True
            except CheckpointError as e: assert 'step_000000003' in str(e) and 'GB free' in str(e)
            except Died: pass
        got, meta = CheckpointManager(folder).load()
        assert got['n'] == meta['step'] and got['w'].equal(tree(got['n'])['w'])      # old or new, and whole
        assert got['n'] == 3 if told else got['n'] in (2, 3)                         # no success without its file
        assert len(CheckpointManager(folder).paths()) >= 2
        for p in CheckpointManager(folder).paths(): load_state(p)                    # nothing visible is broken
        if how != 'die' and told and disk.count < n: break
        if how == 'die' and not disk.dead: break
        assert n < 100
    assert n > 10                                                                    # it did try them all

def test_real_short_writes(tmp_path):
    "The system itself refuses to let the file grow: SIGXFSZ, then EFBIG, at many sizes"
    path = save_state(tmp_path/'s.safetensors', tree(1))
    size, before = path.stat().st_size, path.read_bytes()
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in range(0, size, 97):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
            with pytest.raises(CheckpointError, match='s.safetensors'): save_state(path, tree(2))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old); signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

def test_interrupt_while_saving(tmp_path, monkeypatch):
    mgr = CheckpointManager(tmp_path); mgr.save(1, tree(1))
    def ctrl_c(fd): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(os, 'fsync', ctrl_c)
        with pytest.raises(KeyboardInterrupt): mgr.save(2, tree(2))
    assert mgr.load()[1] == {'step': 1} and len(list(tmp_path.iterdir())) == 1

# ---------------------------------------------------------------- broken and hostile files

def test_flipped_bytes(tmp_path):                                                                    # T13
    mgr = CheckpointManager(tmp_path)
    for s in (1, 2): mgr.save(s, tree(s), {'lr': 1e-3})
    newest, data, dice = mgr.latest(), bytearray(mgr.latest().read_bytes()), random.Random(1)
    for at in sorted({*range(0, 24), *dice.sample(range(len(data)), 100), len(data) - 1}):
        flip = 1 << dice.randrange(8)
        data[at] ^= flip; newest.write_bytes(data); data[at] ^= flip
        with pytest.raises(CheckpointCorrupt, match=newest.name): mgr.load(newest)
        with pytest.warns(UserWarning, match=newest.name): assert mgr.load()[1]['step'] == 1
    for cut in (*range(0, 120, 7), len(data)//2, len(data) - 1):
        newest.write_bytes(data[:cut])
        with pytest.raises(CheckpointCorrupt): load_state(newest)
    newest.write_bytes(data + b'\0')
    with pytest.raises(CheckpointCorrupt): load_state(newest)
    newest.write_bytes(data); assert mgr.load()[1]['step'] == 2

def forge(header, body=b'', length=None):
    "A file whose hash is right, so that only the checks behind it can stop it"
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(',', ':')).encode()
    data = bytearray((len(text) if length is None else length).to_bytes(8, 'little') + text + body)
    at = 8 + len(b'{"__metadata__":{"sha256":"')
    data[at:at+64] = b'0'*64
    data[at:at+64] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)

def about(**kw):
    return {'__metadata__': {'sha256': '0'*64, 'version': '1', 'skeleton': '{"tensor":"a"}', 'meta': '{}', **kw}}
def entry(dtype='F32', shape=(2,), offsets=(0, 8)):
    return {**about(), 'a': dict(dtype=dtype, shape=list(shape), data_offsets=list(offsets))}

HOSTILE = {
    'huge shape': entry(shape=[10**12], offsets=[0, 4*10**12]), 'huge product': entry(shape=[2**40]*60),
    'many dims': entry(shape=[1]*100_000), 'empty but huge': entry(shape=[0, 2**47, 2**47], offsets=[0, 0]),
    'negative': entry(shape=[-2], offsets=[0, -8]), 'minus twice': entry(shape=[-2, -1]),
    'float shape': entry(shape=[2.]), 'true shape': entry(shape=[True, 2]), 'text shape': entry(shape=['2']),
    'overlap': {**entry(), 'b': dict(dtype='F32', shape=[2], data_offsets=[0, 8])},
    'gap': entry(shape=[1], offsets=[4, 8]),
    'beyond the end': entry(shape=[4], offsets=[0, 16]), 'bytes left over': entry(shape=[1], offsets=[0, 4]),
    'backwards': entry(offsets=[8, 0]), 'unknown dtype': entry(dtype='PICKLE'), 'no dtype': {**about(), 'a': {}},
    'entry is text': {**about(), 'a': 'x'}, 'half bools': entry('BOOL', [8]),
    'no such tensor': about(skeleton='{"tensor":"zz"}'),
    'no skeleton': {'__metadata__': {'sha256': '0'*64, 'version': '1'}},
    'strange node': about(skeleton='{"exec":["print(1)"]}'), 'two kinds': about(skeleton='{"list":[],"dict":[]}'),
    'bare list': about(skeleton='[1]'), 'key is a list': about(skeleton='{"dict":[[[1],2]]}'),
    'deep skeleton': about(skeleton='{"list":['*50_000 + ']}'*50_000), 'long number': about(skeleton='9'*10_000),
    'skeleton is no text': about(skeleton=5), 'later version': about(version='2'),
    'deep header': json.dumps(about())[:-1].replace(' ', '').encode() + b',"b":' + b'['*100_000 + b']'*100_000 + b'}',
}

@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_headers(tmp_path, monkeypatch, name):                                               # T14, T15
    f = tmp_path/'evil.safetensors'
    f.write_bytes(forge(HOSTILE[name], b'\2'*8 if isinstance(HOSTILE[name], dict) and 'a' in HOSTILE[name] else b''))
    asked, empty = [0], torch.empty
    def spy(shape, dtype): asked.append(math.prod(shape)*dtype.itemsize); return empty(shape, dtype=dtype)
    monkeypatch.setattr(torch, 'empty', spy)
    with pytest.raises(CheckpointCorrupt, match='evil.safetensors') as e: load_state(f)
    assert len(str(e.value)) < 600 and 'sha256' not in str(e.value)                   # a check behind the hash spoke
    assert max(asked) <= f.stat().st_size                                             # no memory for what is not there

def test_honest_forgery_loads(tmp_path):
    "The control: `forge` makes loadable files, so the tests above fail for the reason they name"
    f = tmp_path/'fine.safetensors'
    f.write_bytes(forge(entry(), b'\0\0\x80?'*2))
    assert load_state(f)[0].tolist() == [1., 1.]

@pytest.mark.parametrize('length', [0, 1, 90, 2**31, 2**63, 2**64 - 1])
def test_hostile_lengths(tmp_path, length):
    f = tmp_path/'evil.safetensors'
    f.write_bytes(forge(about(), length=length))
    with pytest.raises(CheckpointCorrupt): load_state(f)

def test_foreign_files(tmp_path):                                                                    # T14
    canary, f = tmp_path/'canary', tmp_path/'evil.safetensors'
    class Evil:
        def __reduce__(self): return os.mkdir, (str(canary),)
    torch.save(Evil(), f)
    with pytest.raises(CheckpointCorrupt): load_state(f)
    assert not canary.exists()
    dice = random.Random(2)
    for n in (0, 1, 8, 9, 100, 5000):
        f.write_bytes(dice.randbytes(n))
        with pytest.raises(CheckpointCorrupt): load_state(f)
    with pytest.raises(CheckpointCorrupt): load_state(tmp_path)
    with pytest.raises(CheckpointCorrupt): load_state(tmp_path/'none')

def test_mutated_files(tmp_path):                                                                    # T15, small
    f, dice = save_state(tmp_path/'m.safetensors', tree(1)), random.Random(3)
    good = f.read_bytes()
    n = int.from_bytes(good[:8], 'little')
    for _ in range(600):                                                              # each with a right hash
        text = bytearray(good[8:8+n])
        for _ in range(dice.randrange(1, 4)): text[dice.randrange(91, n)] = dice.choice(b'0123456789-{}[]",:eE\\\0\xff')
        f.write_bytes(forge(bytes(text), good[8+n:]))
        try: load_state(f)
        except PromptganError: pass

def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path/'p.safetensors')
    with pytest.raises(CheckpointCorrupt, match='not a file'): load_state(tmp_path/'p.safetensors')

# ---------------------------------------------------------------- missing pieces, locks, retention

def test_each_missing_piece_is_named(tmp_path):                                                      # T7
    G, D = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    parts = {'G': G, 'D': D, 'optG': torch.optim.Adam(G.parameters()), 'optD': torch.optim.Adam(D.parameters()),
             'gen': torch.Generator()}
    D(G(torch.ones(1, 2))).sum().backward()
    for k in ('optG', 'optD'): parts[k].step()
    save_state(tmp_path/'s', state_tree(parts))
    whole = load_state(tmp_path/'s')[0]
    load_tree(parts, whole)
    def keys(d, at=()):
        inner = [p for k, v in d.items() if isinstance(v, dict) and k != 'state' for p in keys(v, (*at, k))]
        return [(*at, k) for k in d] + inner
    paths = keys(whole)
    assert len(paths) >= 13
    for p in paths:
        t = node = copy.deepcopy(whole)
        for k in p[:-1]: node = node[k]
        del node[p[-1]]
        with pytest.raises(CheckpointMismatch, match='/'.join(map(str, p)) + ' is missing'): load_tree(parts, t)

def test_lock_is_free_after_kill(tmp_path):                                                          # T16
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with RunLock(tmp_path): os.write(w, b'x'); time.sleep(30)
        finally: os._exit(0)
    os.read(r, 1); os.close(r); os.close(w)
    try:
        with pytest.raises(RunLocked, match=f'pid {pid} on {os.uname().nodename}'): RunLock(tmp_path).__enter__()
    finally: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    with RunLock(tmp_path): pass

def test_retention(tmp_path, monkeypatch):                                                           # T19
    for keep in (1, 2, 3):
        mgr = CheckpointManager(tmp_path/str(keep), keep=keep)
        for s in range(1, 6):
            mgr.save(s, tree(s), best=s == 2)
            assert len(mgr.paths()) == min(s, keep)
        assert load_state(mgr.folder/'best.safetensors')[1] == {'step': 2}
        def refuse(*a, **kw): raise PermissionError(errno.EPERM, 'Operation not permitted')
        with monkeypatch.context() as m, pytest.warns(UserWarning, match='cannot delete'):
            m.setattr(Path, 'unlink', refuse)
            mgr.save(6, tree(6))                                                      # survived
        assert mgr.load()[1]['step'] == 6 and len(mgr.paths()) == keep + 1
        mgr.save(7, tree(7)); assert len(mgr.paths()) == keep                         # tidied later
        with pytest.raises(CheckpointError, match='NaN'): mgr.save(8, {'w': torch.tensor(float('nan'))})
        assert mgr.load()[1]['step'] == 7

def test_crash_between_write_and_delete(tmp_path, monkeypatch):                                      # T19
    mgr = CheckpointManager(tmp_path, keep=1); mgr.save(1, tree(1))
    def die(*a, **kw): raise Died()
    with monkeypatch.context() as m, pytest.raises(Died):
        m.setattr('promptgan.checkpoint._unlink', die)
        mgr.save(2, tree(2))
    mgr = CheckpointManager(tmp_path, keep=1)
    assert mgr.load()[1]['step'] == 2 and len(mgr.paths()) == 2
    mgr.save(3, tree(3)); assert [p.name for p in mgr.paths()] == ['step_000000003.safetensors']

if __name__ == '__main__': serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
