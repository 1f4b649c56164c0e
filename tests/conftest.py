"What all tests share: no network, a key that is none and must turn up nowhere, a home of their own, one wheel"
import os, runpy, shutil, signal, stat, subprocess, sys, time
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
OFFLINE = ROOT/'tests'/'offline'
signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell that starts tests in the background has Ctrl-C ignored, by children too
runpy.run_path(str(OFFLINE/'sitecustomize.py'))   # here; programs that tests start get it through PYTHONPATH

CANARY = 'sk-canary-' + 'c0ffee'*4   # the key that every test, and every program that a test starts, finds in its environment
_told = []                           # what tests printed, logged and failed with

def pytest_runtest_logreport(report): _told.append('\n'.join([report.longreprtext, *(text for _, text in report.sections)]))

def holding(word, folders, since=0.):
    "Files in `folders`, written after `since`, that hold `word`"
    def holds(p):
        try: s = p.lstat(); return stat.S_ISREG(s.st_mode) and s.st_mtime >= since and s.st_size < 1e9 and word.encode() in p.read_bytes()
        except OSError: return False
    return [str(p) for f in folders for p in Path(f).rglob('*') if holds(p)]

@pytest.fixture(autouse=True, scope='session')
def surroundings(tmp_path_factory):
    "No test reads a real key or writes into the home folder; the key that all of them find is in nothing that they leave behind"
    with pytest.MonkeyPatch.context() as patch:
        for name in ('OPENAI_BASE_URL', 'PROMPTGAN_LLM_MODEL', 'PROMPTGAN_PRICES', 'IN_TEST'): patch.delenv(name, raising=False)
        patch.setenv('OPENAI_API_KEY', CANARY); start = time.time() - 1
        patch.setenv('PROMPTGAN_HOME', os.environ.get('PROMPTGAN_HOME') or str(tmp_path_factory.mktemp('home')))
        patch.setenv('PYTHONPATH', os.pathsep.join(map(str, (OFFLINE, ROOT))))
        yield
        left = holding(CANARY[3:], (tmp_path_factory.getbasetemp(), os.environ['PROMPTGAN_HOME'], ROOT/'nbs', ROOT/'promptgan'), start)
    assert left == [] and CANARY[3:] not in '\n'.join(_told), f'a key was written down, in {left or "what tests print"}'

@pytest.fixture(scope='session')
def sources(tmp_path_factory):
    "A copy of what the wheel is built from, because building leaves things behind"
    here = tmp_path_factory.mktemp('sources')
    for name in ('setup.py', 'settings.ini', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md'):
        if (ROOT/name).exists(): shutil.copy(ROOT/name, here)
    shutil.copytree(ROOT/'promptgan', here/'promptgan', ignore=shutil.ignore_patterns('__pycache__'))
    return here

@pytest.fixture(scope='session')
def build_wheel(sources):
    "A function that builds the wheel into the folder it is given"
    def build(out):
        env = {**os.environ, 'SOURCE_DATE_EPOCH': '1767225600'}   # the same times inside, whenever it is built
        cmd = [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', out, sources]
        done = subprocess.run(list(map(str, cmd)), env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(Path(out).glob('*.whl'))
    return build

@pytest.fixture(scope='session')
def wheel(build_wheel, tmp_path_factory):
    "Path of the wheel"
    return build_wheel(tmp_path_factory.mktemp('wheel'))

@pytest.fixture
def serve():
    "A function that starts a server with faults in a row (`script`) or at random; all are stopped at the end"
    from faultserver import FaultServer
    started = []
    def start(*script, **kw): started.append(FaultServer(script=script, **kw).__enter__()); return started[-1]
    yield start
    for s in started: s.__exit__()
