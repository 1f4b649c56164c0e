"Saving a pipeline over an older one: whatever fails, and wherever it is killed, the old or the new one loads"
import errno, os, shutil, signal, sys, time, warnings
from pathlib import Path
import pytest, torch
from promptgan.core import CheckpointError, InputError
from promptgan.networks import Generator
from promptgan.pipeline import TextToImagePipeline
from promptgan.text import TextEncoder, TextModel, Tokenizer
from test_checkpoint_faults import Died, Disk, break_disk

def pipe_of(n):
    "A small pipeline whose networks and words all depend on `n`"
    tok = Tokenizer.train(['a red cat', 'a blue boat', 'n'*n])
    with torch.random.fork_rng():
        torch.manual_seed(n); enc = TextEncoder(len(tok), e=8, d=8, m=8)
        G = Generator(8, 4, 4, (8, 8), 16)          # no discriminator: it would only make the tests slower
    return TextToImagePipeline(TextModel(tok, enc), G, info=dict(number=n))

PIPES = {n: pipe_of(n) for n in (1, 2)}

@pytest.fixture
def pipes(): return PIPES[1], PIPES[2]

def number(folder):
    "Loads the pipeline and says which one it is; every part must be of the same one"
    pipe = TextToImagePipeline.from_pretrained(folder, 'cpu'); n = pipe.info['number']; want = PIPES[n]
    for a, b in ((pipe.generator, want.generator), (pipe.words.encoder, want.words.encoder)):
        b = b.state_dict(); assert all(v.equal(b[k]) for k, v in a.state_dict().items())
    assert pipe.words.tokenizer.words == want.words.tokenizer.words
    return n

def break_more(m, disk):
    "Also what pipelines do to folders"
    break_disk(m, disk)
    for name in ('rename', 'rmdir'): m.setattr(os, name, disk.op(getattr(os, name)))
    m.setattr(shutil, 'rmtree', disk.op(shutil.rmtree))

@pytest.mark.parametrize('how', [errno.ENOSPC, errno.EIO, 'short', 'die'], ids=['full', 'eio', 'short', 'die'])
def test_nth_operation_fails(tmp_path, monkeypatch, pipes, how):
    old, new = pipes; old.save_pretrained(tmp_path/'saved'/'pipeline'); n, seen = 0, set()
    while True:
        n += 1; run = tmp_path/f'run-{n}'; shutil.copytree(tmp_path/'saved', run)
        disk, told = Disk(n, how), False
        with monkeypatch.context() as m:
            break_more(m, disk)
            try: new.save_pretrained(run/'pipeline'); told = True
            except CheckpointError as e: assert 'pipeline' in str(e)
            except Died: pass
        got = number(run); seen.add(got)
        assert got == 2 if told else got in (1, 2), n
        if n % 5 == 0: old.save_pretrained(run/'pipeline'); assert number(run) == 1 # and the next save mends all
        if disk.count < n: break
        assert n < 200
    assert seen == {1, 2} and n > 20                                                # it did try them all

def test_kills_while_saving(tmp_path, pipes):
    "Real kills of a process that saves in turn the one and the other"
    run, ends = tmp_path/'run', set(); pipes[0].save_pretrained(run/'pipeline')
    for i in range(10):
        r, w = os.pipe(); pid = os.fork()
        if not pid:
            try:
                torch.set_num_threads(1); os.write(w, b'x')
                while True:
                    for p in pipes[::-1]: p.save_pretrained(run/'pipeline')
            finally: os._exit(1)
        os.read(r, 1); time.sleep(.01 + .007*i); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); os.close(r); os.close(w)
        ends.add(number(run))
    for p in (run/'pipeline').glob('*'): os.utime(p, (0, 0))                        # an hour later
    pipes[1].save_pretrained(run/'pipeline'); assert number(run) == 2
    left = sorted(p.name.split('-')[0] for p in (run/'pipeline').iterdir() if not p.name.startswith('.promptgan'))
    assert left == ['README.md', 'config.json', 'files']                            # nothing is left of the dead

def test_reading_while_a_training_saves(tmp_path, monkeypatch, pipes):
    "The files go away under a reader's hands because a newer save is there: it takes the newer one"
    old, new = pipes; old.save_pretrained(tmp_path); load, times = TextModel.from_pretrained.__func__, []
    def meanwhile(cls, *args):
        if not times: times.append(1); new.save_pretrained(tmp_path)
        return load(cls, *args)
    monkeypatch.setattr(TextModel, 'from_pretrained', classmethod(meanwhile))
    assert TextToImagePipeline.from_pretrained(tmp_path, 'cpu').info['number'] == 2 and times

def test_a_run_without_pipeline_is_no_model(tmp_path):
    (tmp_path/'config.json').write_text('{"config": {}}'); (tmp_path/'files-1').mkdir()
    with pytest.raises(InputError, match='no model at'): TextToImagePipeline.from_pretrained(tmp_path)

def test_files_outside_are_not_read(tmp_path, pipes):
    import json
    pipes[0].save_pretrained(tmp_path/'a'); pipes[1].save_pretrained(tmp_path/'b'); config = tmp_path/'a'/'config.json'
    there = next((tmp_path/'b').glob('files-*'))
    config.write_text(json.dumps({**json.loads(config.read_text()), 'files': f'../b/{there.name}'}))
    with pytest.raises(CheckpointError, match='damaged'): TextToImagePipeline.from_pretrained(tmp_path/'a')
