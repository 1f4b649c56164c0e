"Evaluation: few, equal and broken pictures; judges that are not the shipped ones; the files that programs read"
import json, math, shutil
from types import SimpleNamespace
import pytest, torch
from promptgan import emojireader, judges, reader
from promptgan.base import DataError, InputError
from promptgan.data import TextImageData
from promptgan.distances import frechet_distance, kernel_distance, precision_recall
from promptgan.metrics import evaluate

MEASURES = [frechet_distance, kernel_distance, precision_recall]

def values(x): return list(x.values()) if isinstance(x, dict) else [x]

@pytest.mark.parametrize('measure', MEASURES)
@pytest.mark.parametrize('n', [0, 1])
def test_too_few_are_refused(measure, n):
    with pytest.raises(InputError, match='too few'): measure(torch.randn(20, 4), torch.randn(n, 4))

@pytest.mark.parametrize('measure', MEASURES)
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(measure, bad):
    x = torch.randn(20, 4); y = x.clone(); y[3, 2] = bad
    with pytest.raises(InputError, match='1 of 20'): measure(x, y)

@pytest.mark.parametrize('measure', MEASURES)
def test_identical_pictures_give_finite_numbers(measure):
    same = torch.ones(20, 200)                   # fewer pictures than features, and no variance
    assert all(math.isfinite(v) for a in (same, torch.randn(20, 200)) for v in values(measure(a, same)))

def test_frechet_distance_needs_no_complex_root():
    g = torch.Generator().manual_seed(0); base = torch.randn(30, 3, generator=g) @ torch.randn(3, 64, generator=g)   # rank 3 of 64
    d = frechet_distance(base, base + 1e-9*torch.randn(30, 64, generator=g)); assert isinstance(d, float) and 0 <= d < 1e-6

@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0); n = 24
    return TextImageData(torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=g), [[f'picture {i} of it'] for i in range(n)],
                         ['train']*12 + ['valid']*12, [str(i) for i in range(n)])

def pipe(make): return lambda prompts, **kw: SimpleNamespace(images=make(len(prompts)))

def test_numbers_can_be_written_as_json(data):
    got = evaluate(pipe(lambda n: torch.zeros(n, 3, 32, 32)), data, judge_steps=2)
    text = json.dumps(got.to_dict(), allow_nan=False); numbers = json.loads(text)
    assert (got.facts['n'], got.facts['split']) == (12, 'valid') and got.nearest is not None
    assert 'too few' in numbers['precision']['reason'] and numbers['precision']['value'] is None     # halves of 12 are 6
    for k in ('r_precision', 'mae', 'mse', 'ssim', 'fd', 'kid', 'copied', 'diversity'): assert {'value', 'low', 'high', 'ceiling', 'floor'} <= set(numbers[k]), k
    assert {'mean_picture', 'nearest_train', 'best_of_4'} <= set(numbers['mae']) and len(got.facts['eval_encoder']) == 16

@pytest.mark.parametrize('make, says', [(lambda n: torch.full((n, 3, 32, 32), math.nan), 'not finite'), (lambda n: torch.zeros(n, 1, 32, 32), 'is needed'),
                                        (lambda n: torch.zeros(n - 1, 3, 32, 32), 'is needed'), (lambda n: [], 'is needed')])
def test_broken_pictures_are_refused(make, says, data):
    with pytest.raises(InputError, match=says): evaluate(pipe(make), data, judge_steps=2)

def test_one_picture_is_no_exam(data):
    with pytest.raises(InputError, match='2 pictures or more'): evaluate(pipe(lambda n: torch.zeros(n, 3, 32, 32)), data.subset([0]))

def test_same_seed_same_numbers(data):
    one, two = (evaluate(pipe(lambda n: torch.zeros(n, 3, 32, 32)), data, judge_steps=2).numbers for _ in range(2))
    assert one == two

SHIPPED = judges.judge_facts()

@pytest.mark.parametrize('name', sorted(set(SHIPPED) & set(judges.JUDGES)))
def test_shipped_judges_are_small_and_checked(name, tmp_path, monkeypatch):
    file = judges._HERE/f'{name}.safetensors'; assert file.stat().st_size < 1_500_000
    assert judges.load_judge(name).hash() == judges.judge_facts()[name]['hash']; shutil.copy(judges._HERE/'judges.json', tmp_path)
    blob = bytearray(file.read_bytes()); blob[-100] ^= 1; (tmp_path/file.name).write_bytes(blob); monkeypatch.setattr(judges, '_HERE', tmp_path)
    with pytest.raises(DataError, match='not the one that was shipped'): judges.load_judge(name)
    (tmp_path/file.name).write_bytes(blob[:1000])
    with pytest.raises(DataError, match='cannot be loaded'): judges.load_judge(name)

@pytest.mark.parametrize('module, load, path, name', [(emojireader, 'load_emoji_reader', '_FILE', 'emoji_reader'), (reader, 'load_reader', '_PATH', 'scene_reader')])
def test_shipped_readers_are_checked(module, load, path, name, tmp_path, monkeypatch):
    file, load = tmp_path/'r.safetensors', getattr(module, load); shutil.copy(getattr(module, path), file); monkeypatch.setattr(module, path, file)
    assert load()[1] == SHIPPED[name]['hash']
    blob = bytearray(file.read_bytes()); blob[-100] ^= 1; file.write_bytes(blob)
    with pytest.raises(DataError, match='not the one that was shipped'): load()
    file.unlink()
    with pytest.raises(DataError, match='cannot be loaded'): load()
