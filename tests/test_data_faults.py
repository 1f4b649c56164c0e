"""Faults against data sets: damaged pictures, hostile names and archives, odd captions, failing disks.

The notebooks 01* show the ordinary cases; here each fault is injected and everything must end in one of our errors or in
the report.
"""
import builtins, io, json, os, random, signal, socket, struct, sys, tarfile, time, unicodedata, warnings, zlib
from pathlib import Path
import numpy as np
import pytest, torch
from PIL import Image
from promptgan.assemble import split_pictures
from promptgan.check import check_folder
from promptgan.core import CaptionError, DataError
from promptgan.data import TextImageData
from promptgan.items import unsafe_name
from promptgan.pictures import read_picture
import promptgan.data as data_module

posix = pytest.mark.skipif(os.name != 'posix', reason='needs links and pipes')

@pytest.fixture(autouse=True)
def no_hang():
    "Nothing here may wait for a pipe or a device"
    if not hasattr(signal, 'alarm'): yield; return
    def late(*args): raise TimeoutError('hangs')
    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)

def picture(seed=0, size=(24, 18)):
    "Smooth random colours"
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.BICUBIC)

def encoded(im, kind, **kw):
    out = io.BytesIO()
    im.save(out, kind, **kw)
    return out.getvalue()

@pytest.fixture
def folder(tmp_path):
    "Six good pictures with a .txt each"
    for i in range(6):
        picture(i).save(tmp_path/f'{i}.png')
        (tmp_path/f'{i}.txt').write_text(f'picture number {i}')
    return tmp_path

def kinds(problems): return {p.path: p.kind for p in problems}
def load(path, **kw): return TextImageData.from_folder(path, **{'size': 16, 'valid': 0, **kw})

# D1 damaged pictures

@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF', 'WEBP', 'BMP'])
def test_cut_at_every_tenth_byte(kind):
    "A cut picture is refused, or it had lost nothing that is seen"
    data = encoded(picture(), kind)
    whole, refused = read_picture(data, 16), 0
    for cut in range(0, len(data), 10):
        try: assert read_picture(data[:cut], 16).equal(whole), cut
        except DataError: refused += 1
    assert refused > len(data)//10*.8

def test_bad_files_are_reported_and_the_rest_goes_on(folder):
    (folder/'0.png').write_bytes(b'')
    (folder/'1.png').write_text('no picture at all')
    (folder/'2.png').write_bytes((folder/'2.png').read_bytes()[:60])
    for got in (load(folder).report, check_folder(folder).problems):
        assert kinds(got) == {f'{i}.png': 'unreadable' for i in range(3)} and all(p.reason for p in got)
    assert load(folder).names == ['3.png', '4.png', '5.png'] and 'left out: 3 (3 unreadable)' in repr(load(folder))

# D2 a file that vanishes between the listing and the reading

def test_file_vanishes_after_the_listing(folder, monkeypatch):
    def read_then_delete(*args, **kw):
        listing = read_folder(*args, **kw)
        (folder/'3.png').unlink()
        return listing
    read_folder = data_module.read_folder
    monkeypatch.setattr(data_module, 'read_folder', read_then_delete)
    got = load(folder)
    assert len(got) == 5 and kinds(got.report) == {'3.png': 'unreadable'} and 'No such file' in got.report[0].reason

# D3 nothing usable

def test_nothing_usable(tmp_path):
    with pytest.raises(DataError, match='is not a folder'): load(tmp_path/'nowhere')
    with pytest.raises(DataError, match='0 usable images .*it holds no pictures'): load(tmp_path)
    (tmp_path/'a.png').write_text('x')
    with pytest.raises(CaptionError, match='no captions in'): load(tmp_path)
    (tmp_path/'a.txt').write_text('a cat')
    with pytest.raises(DataError, match=r'0 usable images in .*1 rejected: a\.png: unreadable'): load(tmp_path)
    with pytest.raises(DataError, match='is not a folder'): load(tmp_path/'a.txt')

# D4, D5, D6 modes, orientation, animations

MODES = {'1': 1, 'L': 200, 'P': 0, 'LA': (200, 128), 'RGB': (10, 20, 30), 'RGBA': (10, 20, 30, 0), 'I;16': 50_000}
RIGHT = {'1': (255,)*3, 'L': (200,)*3, 'P': (0, 0, 0), 'LA': (100,)*3, 'RGB': (10, 20, 30), 'RGBA': (0, 0, 0), 'I;16': (195,)*3}

@pytest.mark.parametrize('mode', MODES)
def test_png_modes(mode):
    data = encoded(Image.new(mode, (20, 20), MODES[mode]), 'PNG')
    assert np.allclose(read_picture(data, 8, 'black')[:, 4, 4], RIGHT[mode], atol=1)

def test_other_modes():
    assert np.allclose(read_picture(encoded(Image.new('CMYK', (20, 20), (0, 255, 255, 0)), 'JPEG'), 8)[:, 4, 4], (255, 0, 0), atol=3)
    assert np.allclose(read_picture(encoded(Image.new('YCbCr', (20, 20), (128, 128, 128)), 'JPEG'), 8)[:, 4, 4], (128,)*3, atol=3)
    assert np.allclose(read_picture(Image.new('I', (4, 4), 50_000), 4)[:, 0, 0], (195,)*3, atol=1)
    assert np.allclose(read_picture(Image.new('F', (4, 4), .5), 4)[:, 0, 0], (128,)*3, atol=1)
    im = Image.new('P', (20, 20), 0)
    im.putpalette([200, 0, 0, 0, 0, 200])
    assert read_picture(encoded(im, 'PNG', transparency=0), 8, 'lime')[:, 4, 4].tolist() == [0, 255, 0]
    deep = np.linspace(0, 65535, 400).astype('uint16').reshape(20, 20)
    assert np.allclose(read_picture(encoded(Image.fromarray(deep), 'PNG'), 20)[0], deep/257, atol=1)   # scaled, not clipped

@pytest.mark.parametrize('tag', range(1, 9))
def test_orientation_in_jpeg(tag):
    undo = [None, 0, 3, 1, 5, 2, 6, 4][tag - 1]
    reference, exif = picture(size=(64, 48)), Image.Exif()
    exif[0x0112] = tag
    lying = reference if undo is None else reference.transpose(Image.Transpose(undo))
    got = read_picture(encoded(lying, 'JPEG', quality=100, subsampling=0, exif=exif), 16)
    assert (got.int() - read_picture(reference, 16).int()).abs().max() <= 3

@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_damaged_orientation_note_is_ignored():
    data = encoded(picture(), 'JPEG', exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03')
    assert read_picture(data, 16).equal(read_picture(encoded(picture(), 'JPEG'), 16))

@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'GIF'])
def test_first_frame_of_an_animation(kind):
    film = encoded(picture(0), kind, save_all=True, append_images=[picture(1), picture(2)], **(dict(lossless=True) if kind == 'WEBP' else {}))
    assert (read_picture(film, 16).float() - read_picture(picture(0), 16).float()).abs().mean() < 8

# D7 decompression bombs

def one_bit_png(side):
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    row, pack = bytes(side//8 + 2), zlib.compressobj(9)
    body = b''.join(pack.compress(row) for _ in range(side)) + pack.flush()
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)) + chunk(b'IDAT', body) + chunk(b'IEND', b'')

@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_bomb_is_refused_without_unpacking(folder):
    resource = pytest.importorskip('resource')
    data = one_bit_png(13_000)
    assert len(data) < 40_000
    (folder/'0.png').write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000   # kB on Linux
    assert '169,000,000 pixels > limit' in got.report[0].reason and len(got) == 5

def test_own_pixel_limit(folder):
    with pytest.raises(DataError, match='432 pixels > limit 400'): load(folder, max_pixels=400)

# D8 random damage

def test_mutated_pictures_give_our_error_only():
    r, slowest = random.Random(1), 0
    seeds = [encoded(picture(i), k) for i, k in enumerate(('PNG', 'JPEG', 'GIF', 'WEBP', 'BMP'))]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for i in range(1500):
            data = bytearray(seeds[i % len(seeds)])
            for _ in range(r.randint(1, 6)): data[r.randrange(min(len(data), 300))] = r.randrange(256)
            start = time.perf_counter()
            try: read_picture(bytes(data[:r.randrange(1, len(data))] if r.random() < .3 else data), 16)
            except DataError: pass
            slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 1

# D9 things that are no files

@posix
def test_pipes_sockets_folders_and_links(folder):
    os.mkfifo(folder/'pipe.png')
    (folder/'folder.png').mkdir()
    os.symlink('loop.png', folder/'loop.png')
    os.symlink('nothing', folder/'dangling.png')
    os.symlink('/dev/zero', folder/'zero.png')
    os.symlink('/', folder/'root')
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(folder)   # the path of a socket must be short
        try: s.bind('socket.png')
        finally: os.chdir(here)
        got = load(folder)
    assert len(got) == 6
    listed = kinds(got.report)
    assert listed == {n: 'ignored' for n in ('pipe.png', 'loop.png', 'dangling.png', 'zero.png', 'root', 'socket.png')}
    with pytest.raises(DataError, match='regular file'): read_picture(folder/'pipe.png')

# D10 only the five formats, whatever the ending

def test_other_formats_by_content(folder, tmp_path_factory, monkeypatch):
    bins = tmp_path_factory.mktemp('bin')
    (bins/'gs').write_text(f'#!/bin/sh\ntouch {bins}/ran\n')
    (bins/'gs').chmod(0o755)
    monkeypatch.setenv('PATH', f'{bins}{os.pathsep}{os.environ["PATH"]}')
    contents = [encoded(picture(), 'EPS'), encoded(picture(), 'PDF'), encoded(picture(), 'TIFF'), b'<svg/>', encoded(picture(), 'PPM')]
    for i, data in enumerate(contents): (folder/f'{i}.png').write_bytes(data)
    (folder/'drawing.svg').write_text('<svg/>')
    got = load(folder)
    assert got.names == ['5.png'] and not (bins/'ran').exists()
    assert kinds(got.report) == {**{f'{i}.png': 'unreadable' for i in range(5)}, 'drawing.svg': 'ignored'}

def test_right_content_under_a_wrong_ending(folder):
    (folder/'0.png').write_bytes(encoded(picture(0), 'JPEG'))
    (folder/'1.png').rename(folder/'1.JPEG')
    assert len(load(folder)) == 6

# D11, D12 names

def test_names_that_nearly_agree(tmp_path):
    nfc, nfd = 'caf\u00e9', unicodedata.normalize('NFD', 'caf\u00e9')
    names = ['a.jpg', 'a.png', 'A.png', 'x/a.png', f'{nfc}.png', f'{nfd}.png']
    (tmp_path/'x').mkdir()
    rows = []
    for i, n in enumerate(names):
        (tmp_path/n).write_bytes(encoded(picture(i), 'PNG'))
        rows.append(json.dumps({'file_name': n, 'text': f'picture {n}'}))
    if len(list(tmp_path.rglob('*.*g'))) < len(names): pytest.skip('this disk does not tell them apart')
    (tmp_path/'metadata.jsonl').write_text('\n'.join(rows))
    assert sorted(load(tmp_path).names) == sorted(names)
    clashes = [p for p in check_folder(tmp_path).problems if p.kind == 'note']
    assert len(clashes) == 2 and all(p.used for p in clashes)

@posix
def test_names_of_any_bytes(tmp_path):
    names = [b'\xff\xfe.png', b'new\nline.png', b'"quotes\'.png', '😀.png'.encode(), b'x'*251 + b'.png', b'-rf.png', b'\x1b[31m.png']
    for i, n in enumerate(names):
        (tmp_path/'cat').mkdir(exist_ok=True)
        try: Path(os.fsdecode(os.fsencode(tmp_path/'cat') + b'/' + n)).write_bytes(encoded(picture(i), 'PNG'))
        except OSError: pytest.skip('this disk refuses such names')
    Path(os.fsdecode(os.fsencode(tmp_path/'cat') + b'/bad\xff.png')).write_text('x')
    got = load(tmp_path)
    assert {os.fsencode(n) for n in got.names} == {b'cat/' + n for n in names}
    assert json.loads(json.dumps(got.names)) == got.names
    for text in (repr(got), got._repr_html_(), str(got.report[0]), str(check_folder(tmp_path)), check_folder(tmp_path)._repr_html_()):
        assert '\x1b' not in text and text.encode()

# D13 names that lead outside

OPENED = []
WATCH = [False]
def _spy(event, args):
    if WATCH[0] and event == 'open' and isinstance(args[0], (str, bytes)): OPENED.append(os.fsdecode(args[0]))
sys.addaudithook(_spy)   # a hook cannot be taken away again, so it is switched

@pytest.fixture
def opened():
    OPENED.clear()
    WATCH[0] = True
    yield OPENED
    WATCH[0] = False

BAD_NAMES = ['../secret.png', 'a/../../secret.png', '/etc/passwd', 'C:\\x.png', 'c:/x.png', '\\\\host\\x', 'http://example.org/x.png',
             'file:///etc/passwd', 'a\0.png', '~/x.png', '', '..']

@pytest.mark.parametrize('name', BAD_NAMES)
def test_unsafe_file_name(folder, name, opened):
    (folder.parent/'secret.png').write_bytes(encoded(picture(), 'PNG'))
    (folder/'metadata.jsonl').write_text(json.dumps({'file_name': name, 'text': 'mine'}))
    opened.clear()
    with pytest.raises(DataError, match='Invalid file_name'): load(folder)
    assert kinds(check_folder(folder).problems)['metadata.jsonl:1'] == 'unsafe'
    assert not [p for p in opened if 'secret' in p or 'passwd' in p]

@posix
def test_link_that_leads_outside(folder, tmp_path_factory, opened):
    secret = tmp_path_factory.mktemp('private')/'secret.png'
    secret.write_bytes(encoded(picture(9), 'PNG'))
    opened.clear()
    os.symlink(secret, folder/'link.png')
    os.symlink(secret.parent, folder/'linked')
    rows = [{'file_name': n, 'text': 'mine'} for n in ('link.png', 'linked/secret.png', '0.png')]
    (folder/'metadata.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    got = load(folder)
    assert 'link.png' not in got.names and got.names[0] == '0.png'
    assert not [p for p in opened if 'private' in p or 'link' in os.path.basename(p)]
    assert 'link.png' in load(folder, links=True).names   # when asked for

def test_random_names_never_leave(tmp_path, opened):
    "5,000 names from the pieces that attacks are made of"
    r, parts = random.Random(3), ['..', '.', 'a', '/', '//', '\\', '~', 'C:', '://', '\0', ' ', 'é', '..\\', '%2e%2e', 'x.png', '\u202e', '\n']
    root = str(tmp_path)
    for _ in range(5000):
        name = ''.join(r.choice(parts) for _ in range(r.randint(1, 6)))
        if not unsafe_name(name): assert os.path.normpath(os.path.join(root, name)).startswith(root), name

# D14 caption files

def test_caption_files(folder):
    contents = {0: b'', 1: b' \n\t\r\n', 2: '\ufeffcaf\u00e9\r\nsecond\r\n'.encode(), 3: 'caf\u00e9'.encode('cp1252'), 4: b'x'*10_000_000, 5: b'a\0b'}
    for i, data in contents.items(): (folder/f'{i}.txt').write_bytes(data)
    got = load(folder)
    assert got.captions == [['café', 'second'], ['café']]
    told = [(p.path, p.kind, p.used) for p in got.report]
    assert {('0.png', 'captionless', False), ('1.png', 'captionless', False), ('4.png', 'captionless', False),
            ('5.png', 'captionless', False), ('3.txt', 'note', True), ('4.txt', 'note', False), ('5.txt', 'note', False)} == set(told)

def test_metadata_that_is_damaged(folder):
    for i in range(6): (folder/f'{i}.txt').unlink()
    lines = ['{"file_name": "0.png", "text": "fine"}', '{"file_name": "1.png"', '[]', '"text"', '{"file_name": 7, "text": "x"}'.replace('7', '"2.png"'),
             '{"file_name": "3.png", "text": 5}', '{"file_name": "4.png", "captions": {"a": 1}}', '['*100_000]
    (folder/'metadata.jsonl').write_text('\n'.join(lines))
    got = load(folder)
    assert got.names == ['0.png', '2.png']
    told = {(p.path, p.kind) for p in got.report}
    assert {(f'metadata.jsonl:{n}', 'unreadable') for n in (2, 3, 4, 8)} | {('3.png', 'captionless'), ('4.png', 'captionless')} \
        | {('1.png', 'unlisted'), ('5.png', 'unlisted')} <= told

def test_captions_with_control_characters_are_text(folder):
    (folder/'0.txt').write_text('a \x1b[31mred\x1b[0m \u202ecat</script>\x07')
    got = load(folder)
    assert got.captions[0] == ['a red cat</script>'] and '</script>' not in got._repr_html_()

# D15 archives

def tar_of(path, *members):
    with tarfile.open(path, 'w') as tar:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), '/etc/passwd'
            tar.addfile(info, io.BytesIO(data))
    return path

def test_hostile_tars(tmp_path, opened):
    png, file = encoded(picture(), 'PNG'), tarfile.REGTYPE
    for name in ('../out.png', '/abs.png'):
        with pytest.raises(DataError, match='Invalid name in a tar'): TextImageData.from_webdataset(tar_of(tmp_path/'a.tar', (name, png, file)))
    tar_of(tmp_path/'b.tar', ('a.png', png, file), ('a.txt', b'a cat', file), ('b.png', b'', tarfile.SYMTYPE), ('b.txt', b'x', file),
           ('c.png', b'', tarfile.FIFOTYPE))
    got = TextImageData.from_webdataset(tmp_path/'b.tar', valid=0, size=16)
    assert got.names == ['b.tar/a.png'] and kinds(got.report) == {'b.tar/b.png': 'ignored', 'b.tar/c.png': 'ignored', 'b.tar/b': 'missing'}
    with tarfile.open(tmp_path/'c.tar.gz', 'w:gz') as tar: tar.add(tmp_path/'b.tar')
    with pytest.raises(DataError, match='decompress it'): TextImageData.from_webdataset(tmp_path/'c.tar.gz')
    assert '/etc/passwd' not in opened and sorted(p.name for p in tmp_path.iterdir()) == ['a.tar', 'b.tar', 'c.tar.gz']

def test_tar_that_is_cut(tmp_path):
    png = encoded(picture(), 'PNG')
    tar_of(tmp_path/'a.tar', *[(f'{i}.{e}', d, tarfile.REGTYPE) for i in range(3) for e, d in (('txt', b'a cat'), ('png', png))])
    data = (tmp_path/'a.tar').read_bytes()
    for cut in range(0, len(data), 700):
        (tmp_path/'b.tar').write_bytes(data[:cut])
        try: assert len(TextImageData.from_webdataset(tmp_path/'b.tar', size=16)) <= 3
        except DataError: pass
        except CaptionError: pass

# D16 a disk that fails

def test_failing_disk(folder, monkeypatch):
    true_open = builtins.open
    def failing(path, *args, **kw):
        if str(path).endswith('2.png'): raise OSError(5, 'Input/output error', str(path))
        return true_open(path, *args, **kw)
    monkeypatch.setattr(builtins, 'open', failing)
    got = load(folder)
    assert len(got) == 5 and kinds(got.report) == {'2.png': 'unreadable'} and '[Errno 5]' in got.report[0].reason

# the split

@pytest.mark.parametrize('seed', range(30))
def test_split_never_leaks(seed):
    "Random pictures that repeat, random captions: no picture on both sides, nor a caption where they are nearly unique"
    r = random.Random(seed)
    n = r.randint(2, 60)
    hashes = [str(r.randrange(max(1, n*2//3))) for _ in range(n)]
    captions = [[f'caption {r.randrange(n*(8 if seed % 2 else 1))}' for _ in range(r.randint(1, 3))] for _ in range(n)]
    split, rule = split_pictures(hashes, captions, valid=.3, seed=seed)
    side = {s: [i for i in range(n) if split[i] == s] for s in ('train', 'valid')}
    assert not {hashes[i] for i in side['train']} & {hashes[i] for i in side['valid']}
    if 'captions are never' in rule:
        assert not {c for i in side['train'] for c in captions[i]} & {c for i in side['valid'] for c in captions[i]}
    assert split == split_pictures(hashes, captions, valid=.3, seed=seed)[0]

def test_mapped_equals_in_memory(folder):
    a, b = load(folder, valid=.3), load(folder, valid=.3, max_ram_gb=0)
    assert a.fingerprint() == b.fingerprint() and a.names == b.names
    assert b.train.imgs.data_ptr() == b.imgs.data_ptr() and torch.equal(a.valid.imgs, b.valid.imgs)

# --- scenes are drawn once

def test_drawn_scenes_are_kept_and_a_damaged_file_is_not_used(tmp_path, monkeypatch):
    import promptgan.datasets as datasets
    monkeypatch.setenv('PROMPTGAN_HOME', str(tmp_path)); drawn = []; draw_all = datasets._draw_all
    monkeypatch.setattr(datasets, '_draw_all', lambda *a: drawn.append(a) or draw_all(*a)); monkeypatch.setattr(datasets, '_recipe', lambda: 'x')
    first = datasets.scenes(20, split='train').imgs; again = datasets.scenes(20, split='train').imgs
    assert len(drawn) == 1 and first.equal(again)
    file, = (tmp_path/'scenes').iterdir(); data = bytearray(file.read_bytes()); data[-1000] ^= 1; file.write_bytes(data)
    assert datasets.scenes(20, split='train').imgs.equal(first) and len(drawn) == 2       # one bit
    for bad in (b'', b'no picture'): file.write_bytes(bad); assert datasets.scenes(20, split='train').imgs.equal(first)
    assert len(drawn) == 4 and datasets.scenes(20, split='train', seed=1) is not None and len(drawn) == 5 and len(list((tmp_path/'scenes').iterdir())) == 2
