"Each bad input gives its one clear line (or its documented way out), the right exit status, and nothing that exists is lost"
import json
import pytest
from PIL import Image

@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    "A tiny trained run"
    from promptgan.datasets import scenes
    from promptgan.train import text_gan_learner
    out = tmp_path_factory.mktemp('runs')/'tiny'
    text_gan_learner(scenes(24, split='train'), 'nano', out=out, bs=8, progress=False, sample_prompts=['a red cat']).fit(steps=2)
    return out

def call(capsys, *args):
    "Exit status and what went to stderr"
    from promptgan.cli import _run
    status = _run([str(a) for a in args])
    return status, capsys.readouterr().err.strip()

def picture(path, colour='red'): path.parent.mkdir(parents=True, exist_ok=True); Image.new('RGB', (70, 70), colour).save(path)

def test_empty_folder(tmp_path, capsys):
    status, err = call(capsys, 'train', tmp_path, '--kimg', '0.1', '--out', tmp_path/'run')
    assert status == 1 and err.startswith('Error: ') and '\n' not in err and str(tmp_path) in err

def test_folder_without_captions(tmp_path, capsys):
    for i in range(3): picture(tmp_path/f'{i}.png')
    status, err = call(capsys, 'train', tmp_path, '--kimg', '0.1', '--out', tmp_path/'run')
    assert status == 1 and 'caption' in err and '\n' not in err

def test_corrupt_picture_is_listed_and_left_out(tmp_path, capsys):
    from promptgan.data import TextImageData
    for i, c in enumerate(('red', 'blue', 'green', 'black')): picture(tmp_path/f'{i}.png', c); (tmp_path/f'{i}.txt').write_text(f'a {c} square')
    (tmp_path/'2.png').write_bytes(b'not a picture')
    data = TextImageData.from_folder(tmp_path, valid=0)
    assert len(data) == 3 and any('2.png' in str(p.path) for p in data.report)
    status, _ = call(capsys, 'check', tmp_path)
    assert status == 1

def test_metadata_names_a_missing_file(tmp_path, capsys):
    for i, c in enumerate(('red', 'blue', 'green')): picture(tmp_path/f'{i}.png', c)
    rows = [dict(file_name=f'{i}.png', text=f'square {i}') for i in range(4)]
    (tmp_path/'metadata.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    from promptgan.data import TextImageData
    assert any('3.png' in str(p.path) for p in TextImageData.from_folder(tmp_path, valid=0).report)
    assert call(capsys, 'check', tmp_path)[0] == 1

def test_unknown_preset(capsys): assert call(capsys, 'train', 'scenes', '--preset', 'huge')[0] == 2

def test_two_budgets(capsys): assert call(capsys, 'train', 'scenes', '--minutes', '1', '--kimg', '1')[0] == 2

def test_prompt_of_unknown_words_only(run_folder, tmp_path, capsys):
    status, err = call(capsys, 'generate', 'xylophone zeppelin', '--model', run_folder, '--out', tmp_path)
    assert status == 1 and 'no word of' in err and '\n' not in err

def test_existing_pictures_are_kept(run_folder, tmp_path, capsys):
    args = ('generate', 'a red cat', '--model', run_folder, '--out', tmp_path, '--n', '2')
    assert call(capsys, *args)[0] == 0
    files = sorted(tmp_path.glob('*.png')); assert len(files) == 2
    before = [f.read_bytes() for f in files]; files[0].write_bytes(b'mine')
    status, err = call(capsys, *args)
    assert status == 1 and '--overwrite' in err and files[0].read_bytes() == b'mine'
    assert call(capsys, *args, '--overwrite')[0] == 0 and [f.read_bytes() for f in files] == before   # same seed, same pictures

def test_existing_run_is_kept(run_folder, capsys):
    before = {p: p.read_bytes() for p in run_folder.rglob('*') if p.is_file() and p.name != 'run.lock'}
    status, err = call(capsys, 'demo', '--data', 'scenes', '--out', run_folder)
    assert status == 1 and '--resume' in err
    assert {p: p.read_bytes() for p in before} == before
