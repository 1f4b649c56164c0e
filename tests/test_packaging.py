"The wheel works for somebody who has only the wheel: new environment, newest versions of everything, outside the repository"
import os, re, subprocess, sys, sysconfig, venv
from importlib import metadata
from pathlib import Path
import pytest
from PIL import Image
from conftest import ROOT

pytestmark = pytest.mark.network
HEAVY = ('torch', 'torchvision', 'triton', 'nvidia', 'cuda')   # gigabytes: borrowed from this environment instead of downloaded

def is_heavy(name): return name.lower().replace('_', '-').split('-')[0] in HEAVY

def lend(folder):
    "Link the heavy packages of this environment, and nothing else of it, into `folder`"
    for dist in filter(lambda d: is_heavy(d.metadata['Name'] or ''), metadata.distributions()):
        tops = {Path(f).parts[0] for f in dist.files or [] if Path(f).parts[0] not in ('..', '__pycache__')}
        for top in tops:
            target = Path(dist.locate_file(top)).resolve()
            if target.exists() and not (folder/top).exists(): (folder/top).symlink_to(target)

@pytest.fixture(scope='module')
def elsewhere(wheel, tmp_path_factory):
    "A new virtual environment with the wheel in it: a function that runs one of its programs in an empty folder"
    base, lent = tmp_path_factory.mktemp('elsewhere'), tmp_path_factory.mktemp('lent')
    lend(lent)
    venv.create(base/'venv')
    at = lambda key: Path(sysconfig.get_path(key, 'venv', {'base': str(base/'venv'), 'platbase': str(base/'venv')}))
    (at('purelib')/'lent.pth').write_text(f'{lent}\n')
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')} | {'OMP_NUM_THREADS': '2'}
    (base/'work').mkdir()
    def run(program, *args, timeout=300):
        cmd = [str(at('scripts')/program), *map(str, args)]
        done = subprocess.run(cmd, cwd=base/'work', env=env, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f'{cmd}\n{done.stdout}\n{done.stderr}'
        return done.stdout
    def install(*what):   # by the pip of these tests; bytecode is made for what is used
        cmd = [sys.executable, '-m', 'pip', '--python', at('scripts')/'python', 'install', '--quiet', '--no-compile', *what]
        done = subprocess.run(list(map(str, cmd)), env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    install(wheel); run.install, run.folder = install, base/'work'
    return run

def test_all_modules_import_with_the_newest_versions(elsewhere):
    code = '''
import importlib, pkgutil, promptgan
names = [m.name for m in pkgutil.walk_packages(promptgan.__path__, 'promptgan.')]
for n in names: importlib.import_module(n)
print(len(names), importlib.metadata.version('fastcore'), promptgan.__file__)'''
    modules, fastcore, file = elsewhere('python', '-c', code).split()
    assert int(modules) > 3 and int(fastcore.split('.')[0]) >= 2 and Path(file).is_relative_to(elsewhere.folder.parent)

def test_info(elsewhere):
    from promptgan import __version__
    assert __version__ in elsewhere('promptgan', 'info')

def test_train_and_generate(elsewhere):
    photos = elsewhere.folder/'photos'; photos.mkdir()
    for name in ('red', 'green', 'blue', 'yellow'):
        for i in range(3): Image.new('RGB', (70, 64), name).point(lambda v: max(0, v - i)).save(photos/f'{name}{i}.png'); (photos/f'{name}{i}.txt').write_text(f'a {name} field')
    elsewhere('promptgan', 'train', 'photos', '--preset', 'nano', '--minutes', 0.02, '--out', 'run', '--seed', 0)
    assert (elsewhere.folder/'run'/'config.json').exists()
    elsewhere('promptgan', 'generate', 'a red field', '--model', 'run', '--n', 2, '--seed', 0, '--out', 'pictures')
    pictures = [Image.open(p) for p in (elsewhere.folder/'pictures').rglob('*.png')]
    assert len(pictures) == 2 and all(p.size == (64, 64) for p in pictures)

def test_shipped_model_draws_at_once(elsewhere):
    elsewhere('promptgan', 'generate', 'a large red house, by day', '一只蓝色的猫', '--model', 'scenes64', '--n', 1, '--out', 'shipped')
    red, _ = [Image.open(p).convert('RGB') for p in sorted((elsewhere.folder/'shipped').glob('*.png'))]
    assert len(red.getcolors(4096)) > 100   # a picture, not one flat colour

OLD_CLIENT = """
import sys, threading
sys.path[:0] = [{old!r}, {tests!r}]
import openai
from faultserver import FaultServer
from promptgan.bulk import caption_folder
from promptgan.captions import ChatGPTCaptioner
with FaultServer(script=['429', 'badjson', '500']) as s:
    r = caption_folder('few', ChatGPTCaptioner(n=2, base_url=s.url, backoff=.01), progress=False)
    print(openai.__version__, len(r.captions), len(r.failed), len(s.asked))"""

def test_lowest_openai_captions_too(elsewhere):   # the newest is what all other tests use
    lowest = re.search(r'openai>=([\d.]+)', (ROOT/'settings.ini').read_text())[1]; old = elsewhere.folder/'old'
    elsewhere.install('--target', old, '--no-deps', f'openai=={lowest}', 'httpx', 'httpcore', 'h11', 'certifi', 'distro')   # what it has and the newest has not
    few = elsewhere.folder/'few'; few.mkdir()
    for name in ('red', 'green', 'blue'): Image.new('RGB', (8, 8), name).save(few/f'{name}.png')
    version, captions, failed, asked = elsewhere('python', '-c', OLD_CLIENT.format(old=str(old), tests=str(ROOT/'tests'))).split()
    assert f'{version}.'.startswith(f'{lowest}.') and (captions, failed, asked) == ('3', '0', '6')
