"`import promptgan` is quick and leaves no trace"
import os, socket, subprocess, sys
import pytest
from conftest import OFFLINE, ROOT

CLEAN = {k: v for k, v in os.environ.items() if k in ('PATH', 'LD_LIBRARY_PATH', 'SYSTEMROOT', 'TMPDIR', 'LANG', 'VIRTUAL_ENV')}

def python(code, cwd, **env):
    "Run `code` in a fresh interpreter that knows no home"
    env = {**CLEAN, 'PYTHONPATH': os.pathsep.join(map(str, (OFFLINE, ROOT))), 'PYTHONDONTWRITEBYTECODE': '1', **env}
    done = subprocess.run([sys.executable, '-c', code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout

TIME = '''
import time, torch, torchvision
start = time.perf_counter()
import promptgan
from promptgan import TextImageData, TextToImagePipeline, evaluate, scenes, text_gan_learner   # names load their modules
print(time.perf_counter() - start)
'''

def test_import_is_quick(tmp_path):
    seconds = []   # other programs make an import slow, none makes it quick: up to three tries
    while not seconds or (min(seconds) >= 1.5 and len(seconds) < 3): seconds.append(float(python(TIME, tmp_path)))
    assert min(seconds) < 1.5, seconds

TRACE = '''
import random, sys, torch, torchvision, numpy as np
seen = []
def hook(event, args):
    if event.startswith('socket.') and event != 'socket.gethostname': seen.append(event)
    if event in ('os.mkdir', 'os.rename', 'os.remove', 'os.truncate', 'subprocess.Popen', 'os.system'): seen.append((event, str(args)))
    if event == 'open' and set(str(args[1])) & set('wax+') and args[0] != '/dev/null': seen.append((event, str(args)))
state = lambda: (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
before = state()
sys.addaudithook(hook)
import promptgan
for name in getattr(promptgan, '__all__', []): getattr(promptgan, name)
seen, found = [], list(seen)
print(found, state() == before)
import socket
socket.socket().close(); open('x', 'w').close()   # would it be noticed?
print(seen)
'''

def test_import_opens_no_socket_writes_no_file_and_leaves_global_random_state_alone(tmp_path):
    found, would = python(TRACE, tmp_path).splitlines()
    assert found == '[] True' and 'socket.__new__' in would and "'x'" in would
    assert [p.name for p in tmp_path.iterdir()] == ['x']

def test_import_without_home_in_a_folder_one_cannot_write(tmp_path):
    tmp_path.chmod(0o555)
    try: assert 'version' in python("import promptgan\nfor n in promptgan.__all__: getattr(promptgan, n)\nprint('version', promptgan.__version__)", tmp_path, HOME='/nonexistent')
    finally: tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []

def test_tests_cannot_reach_the_network():
    with socket.socket() as s, pytest.raises(OSError, match='do not use the network'): s.connect(('192.0.2.1', 80))
    with socket.socket() as server, socket.socket() as s:   # this machine is allowed
        server.bind(('127.0.0.1', 0))
        server.listen()
        s.connect(server.getsockname())
