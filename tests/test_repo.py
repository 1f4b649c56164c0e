"The repository itself: what the package says about itself, what its code never does, what its notebooks look like"
import ast, base64, io, json, re, subprocess, sys, tokenize, zipfile
from configparser import ConfigParser
from email import message_from_bytes
import pytest
from conftest import ROOT

MODULES = sorted((ROOT/'promptgan').rglob('*.py'))
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
TEXT = ('.py', '.ipynb', '.md', '.ini', '.toml', '.yml', '.yaml', '.json', '.jsonl', '.in', '.txt', '')

def name_of(path): return str(path.relative_to(ROOT))

@pytest.fixture(scope='module')
def settings():
    config = ConfigParser(interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

# --- the package

@pytest.fixture(scope='module')
def metadata(wheel):
    "The METADATA of the wheel"
    with zipfile.ZipFile(wheel) as z: return message_from_bytes(z.read(next(n for n in z.namelist() if n.endswith('METADATA'))))

def test_metadata_is_what_settings_say(metadata, settings):
    assert [metadata[k] for k in ('Name', 'Version', 'Summary')] == [settings[k] for k in ('lib_name', 'version', 'description')]
    assert metadata['Requires-Python'] == f">={settings['min_python']}"
    assert metadata['Author'] == 'promptgan developers' and not metadata['Author-email']

def plain(requirement): return re.sub(r'[\s()"\']', '', requirement).lower()

def spec(requirement):
    "Name and sorted version limits, however they are written"
    name, limits = re.fullmatch(r'([\w.-]+)(.*)', plain(requirement)).groups()
    return name, sorted(filter(None, limits.split(',')))

def test_requirements_and_extras(metadata, settings):
    told = [(r.split(';')[0], re.search(r'extra == .(\w+)', r)) for r in metadata.get_all('Requires-Dist')]
    extras = {k.removesuffix('_requirements'): v for k, v in settings.items() if k.endswith('_requirements')}
    assert set(metadata.get_all('Provides-Extra')) == set(extras) == {'dev', 'browser', 'minilm', 'openmoji'}
    for extra, wanted in [(None, settings['requirements']), *extras.items()]:
        assert sorted(spec(r) for r, e in told if (e and e[1]) == extra) == sorted(map(spec, wanted.split())), extra

def test_nbdev_is_pinned_and_fastcore_free(settings):
    assert {'nbdev==2.4.14', 'execnb==0.1.18', 'ghapi==1.1.1'} <= set(settings['dev_requirements'].split())
    assert 'fastcore>=1.12.3' in settings['requirements'].split()   # no upper limit: users may have 2

def test_wheel_holds_code_and_small_data_only(wheel):
    with zipfile.ZipFile(wheel) as z: sizes = {i.filename: i.file_size for i in z.infolist()}
    kinds = {n.rsplit('.', 1)[-1] for n in sizes if n.startswith('promptgan/')}
    assert kinds <= {'py', 'json', 'jsonl', 'safetensors', 'md', 'png'}
    assert any(n.endswith('licenses/LICENSE') for n in sizes)
    assets = {p.relative_to(ROOT).as_posix() for p in (ROOT/'promptgan'/'assets').rglob('*') if p.is_file()}
    assert len(assets) > 10 and assets <= set(sizes), assets - set(sizes)   # captions, judges, weights
    weights = {n: s for n, s in sizes.items() if n.startswith('promptgan/assets/weights/')}
    assert sum(weights.values()) < 16e6 and sum(s for n, s in sizes.items() if n not in weights and not n.endswith('.py')) < 9e6
    with zipfile.ZipFile(wheel) as z: points = z.read(next(n for n in sizes if n.endswith('entry_points.txt'))).decode()
    assert 'promptgan = promptgan.cli:main' in points and 'promptgan = promptgan._modidx:d' in points

def test_wheel_is_the_same_each_time(wheel, build_wheel, tmp_path):
    assert build_wheel(tmp_path).read_bytes() == wheel.read_bytes()

def test_version_stands_in_one_place(settings):
    assert f"__version__ = \"{settings['version']}\"" in (ROOT/'promptgan'/'__init__.py').read_text()

# --- the code

def misdeeds(source):
    "What must not be in our code: each is a way to run or trust what came from outside"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ''] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            yield from (f'import {n}' for n in names if n.split('.')[0] in ('pickle', 'dill', 'cloudpickle', 'shelve', 'marshal'))
        if not isinstance(node, ast.Call): continue
        func = ast.unparse(node.func)
        keys = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if func in ('eval', 'exec', 'os.system', 'os.popen', 'yaml.load'): yield func
        if func.endswith(('.extractall', '.extract')): yield func
        if func == 'torch.load' and keys.get('weights_only') != 'True': yield 'torch.load without weights_only'
        if func.endswith('np.load') and keys.get('allow_pickle') == 'True': yield 'np.load with pickles'
        if keys.get('shell') == 'True' or keys.get('verify') == 'False': yield f'{func} with shell or without verify'

def test_misdeeds_are_found():
    bad = ['import pickle', 'from pickle import loads', 'eval("1")', 'exec("")', 'subprocess.run("ls", shell=True)', 'yaml.load(f)',
           'tar.extractall()', 'get(url, verify=False)', 'torch.load(f)', 'import os; os.system("ls")']
    assert [b for b in bad if not list(misdeeds(b))] == []
    assert list(misdeeds('model.eval(); torch.load(f, weights_only=True); run(["ls"])')) == []

@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_code_does_no_misdeeds(path):
    assert list(misdeeds(path.read_text(encoding='utf-8'))) == []

TORCH = ('forward', 'extra_repr')

def bare(source):
    "Public functions, classes and methods without a docstring; what torch calls by itself needs none"
    def look(nodes, prefix=''):
        for n in nodes:
            if not isinstance(n, (ast.FunctionDef, ast.ClassDef)) or n.name.startswith('_') or n.name in TORCH: continue
            if not ast.get_docstring(n): yield prefix + n.name
            if isinstance(n, ast.ClassDef): yield from look(n.body, f'{n.name}.')
    return list(look(ast.parse(source).body))

@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_public_names_are_explained(path):
    assert bare(path.read_text(encoding='utf-8')) == []

EVENTS = ('before_fit', 'after_step', 'after_fit')   # of callbacks; their class says what `learn` is
CALLED = ('__init__', '__call__')

def typed(source):
    "Names that a module gives to the options of its commands"
    values = [n for n in ast.parse(source).body if isinstance(n, ast.Assign)]
    return {t.id for n in values if ast.unparse(n.value).startswith('Annotated[') for t in n.targets}

OPTIONS = set().union(*(typed(p.read_text(encoding='utf-8')) for p in MODULES))

def published(source):
    "Private functions that a class takes as public methods: Class.name = _name, also several at once"
    for left, right in re.findall(r'^([A-Z]\w*\.[\w., ]+) = (?:classmethod\()?(_\w+(?:, _\w+)*)\)?$', source, re.M):
        pairs = zip(re.findall(r'\.(\w+)', left), right.split(', '), strict=True)
        yield from (f for name, f in pairs if not name.startswith('_') or name in CALLED)

def unexplained(source):
    "Parameters of public functions and methods with neither a comment on their line nor the help of a command"
    tree = ast.parse(source); also = {*CALLED, *published(source)}
    told = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}
    def helped(p):
        note = ast.unparse(p.annotation) if p.annotation else ''
        return note in OPTIONS or note.startswith('Annotated[')
    def look(nodes, prefix=''):
        for n in nodes:
            if n.__class__ is ast.ClassDef and not n.name.startswith('_'): yield from look(n.body, f'{n.name}.')
            if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
            if n.name.startswith('_') and n.name not in also: continue
            a = n.args; every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
            params = [p for p in every if p.arg not in ('self', 'cls')]
            if n.name in EVENTS and [p.arg for p in params] == ['learn']: continue
            result = n.returns.end_lineno if n.returns else 0           # a comment there explains the result
            yield from (f'{prefix}{n.name}: {p.arg}' for p in params
                        if (p.lineno not in told or p.lineno == result) and not helped(p))
    return list(look(tree.body))

def test_unexplained_parameters_are_found():
    assert unexplained('def f(a, # one\n  b, c, # two\n  *d): pass') == ['f: d']
    assert unexplained('class A:\n  def __init__(self, a): pass\n  def before_fit(self, learn): pass\n'
                       '  def _b(self, x): pass') == ['A.__init__: a']
    assert unexplained('def f(a) -> int: # the result\n  return a') == ['f: a']
    assert unexplained('def _f(self, a): pass\ndef _g(self, b): pass\nA.f, A._g = _f, _g') == ['_f: a']
    assert unexplained('def f(a:Annotated[int, Option(help="what")]): pass') == []

def test_parameters_are_explained():
    found = {p: unexplained(p.read_text(encoding='utf-8')) for p in MODULES}
    bare = ['.'.join(p.relative_to(ROOT/'promptgan').with_suffix('').parts) + f'.{f}' for p, fs in found.items() for f in fs]
    assert bare == []

@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_functions_fit_a_screen(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {f.name: n for f in functions if (n := f.end_lineno - f.body[0].lineno + 1) > 30}   # docments not counted
    assert long == {}

SECRET = re.compile(r'sk-[A-Za-z0-9_-]{20,}|ghp_\w{30,}|hf_[A-Za-z]{30,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY')

def test_no_secrets():
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else [name_of(p) for p in (*MODULES, *NOTEBOOKS)]
    files = [ROOT/n for n in names if (ROOT/n).suffix in TEXT and (ROOT/n).is_file()]
    assert len(files) > 10
    assert [name_of(f) for f in files if SECRET.search(f.read_text(encoding='utf-8', errors='replace'))] == []
    assert SECRET.search('key = "sk-' + 'a1'*12 + '"')

# --- the notebooks

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])

@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_notebook_opens_and_closes_as_agreed(path):
    first, second, *_, last = cells(path)
    assert first['cell_type'] == 'markdown' and re.match(r'# .+\n+> .+', source(first)), 'first a title and a promise'
    if not any(re.search(r'^#\| *export', source(c), re.M) for c in cells(path)): return   # tutorials, index
    assert re.match(r'#\| *default_exp \w+', source(second)), 'then the name of the module'
    assert re.match(r'#\| *hide\n(#\| *eval: *false\n)?import nbdev; *nbdev\.nbdev_export\(\)', source(last)), 'last the export'

@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_notebook_is_small_and_tells_nothing_of_its_machine(path):
    assert path.stat().st_size < 1e6
    outputs = [o for c in cells(path) for o in c.get('outputs', [])]
    pictures = [base64.b64decode(''.join(o['data']['image/png'])) for o in outputs if 'image/png' in o.get('data', {})]
    assert [len(p) for p in pictures if len(p) > 60_000] == [], 'one picture takes at most 60 kB'
    texts = [json.dumps({k: v for k, v in o.get('data', o).items() if not k.startswith('image/')}) for o in outputs]
    told = [m[0] for t in texts for m in re.finditer(r'(/(?:home|root|Users|tmp)/|C:\\\\Users)[\w.-]*', t)]
    assert told == [] and [o['ename'] for o in outputs if o['output_type'] == 'error'] == []

@pytest.mark.parametrize('path', NOTEBOOKS, ids=name_of)
def test_exported_lines_are_short(path):
    code = [source(c) for c in cells(path) if re.search(r'^#\| *export', source(c), re.M)]
    assert [line for s in code for line in s.splitlines() if len(line) > 120] == []

def test_every_module_has_its_notebook():
    wanted = {m[1] for p in NOTEBOOKS for c in cells(p)[:3] if (m := re.search(r'^#\| *default_exp ([\w.]+)', source(c), re.M))}
    made = {'.'.join(p.relative_to(ROOT/'promptgan').with_suffix('').parts) for p in MODULES if not p.name.startswith('_')}
    assert made == wanted
