"Write README.md from nbs/index.ipynb (`--check`: only say whether it would change)"
import posixpath, re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).parents[1]

def render(nb):
    "The Markdown of `nb` without hidden cells and directives, and its figures as name -> bytes"
    hidden = lambda c: re.search(r'^#\|\s*(hide|default_exp)\b', c.source, re.M)
    nb.cells = [c for c in nb.cells if not hidden(c)]
    for c in nb.cells:
        if re.search(r'^#\| *echo: *false', c.source, re.M): c.metadata['transient'] = {'remove_source': True}
        c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
    nb.cells = [c for c in nb.cells if c.source or c.get('outputs')]
    text, res = MarkdownExporter().from_notebook_node(nb)
    files = {}
    for i, (name, data) in enumerate(res['outputs'].items(), 1):
        files[f'nbs/images/index_{i}{Path(name).suffix}'] = data
        text = text.replace(f'({name})', f'(images/index_{i}{Path(name).suffix})')
    fix = lambda m: f']({posixpath.normpath("nbs/" + m[1])})'   # links are relative to nbs/ in the notebook
    text = re.sub(r'\]\((?!\w+:|#|/)([^)\s]+)\)', fix, text)
    note = '<!-- written from nbs/index.ipynb by tools/readme.py; edit the notebook -->\n\n'
    text = re.sub(r'^ +$', '', text, flags=re.M)
    return note + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', files

text, files = render(nbformat.read(root/'nbs/index.ipynb', 4))
new = {'README.md': text.encode(), **files}
old = {str(p.relative_to(root)): p.read_bytes() for p in [root/'README.md', *root.glob('nbs/images/index_*')] if p.exists()}
changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
if '--check' in sys.argv: sys.exit(f'not as nbs/index.ipynb says: {", ".join(changed)}; run tools/readme.py' if changed else 0)
for name in changed: (root/name).unlink() if name not in new else None
for name, data in new.items(): (root/name).parent.mkdir(exist_ok=True), (root/name).write_bytes(data)
print(f'README.md and {len(files)} figures, {len(changed)} changed')
