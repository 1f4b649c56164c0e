"Words that come from a language model: what keeps the meaning, what keeps to the wishes, what is kept when money ends"
import json, sqlite3
import pytest
from faultserver import FaultServer
from promptgan.base import BudgetExceeded, InputError, LLMBadResponse, LLMError, LLMQuotaError, PromptganError
from promptgan.bulk import caption_folder
from promptgan.captions import ChatGPTCaptioner, Shot, TemplateCaptioner
from promptgan.datasets import scenes
from promptgan.invent import write_prompts
from promptgan.llm import ChatGPT
from promptgan.replies import usage_of
from promptgan.rewrite import _SHOTS, ChatGPTRewriter, meanings, rewrite_captions, rewrite_data, same_meaning
from promptgan.wishes import Wishes, read_items, tidy
from tinymodel import tiny_words

# --- the meaning of a caption

OTHER = '''
a red circle above a blue square | a blue square above a red circle
红色的圆在蓝色的方块上方 | 蓝色的方块在红色的圆上方
红色的圆在蓝色的方块上方 | 蓝色的圆在红色的方块上方
一个红色的圆和一个蓝色的方块 | 一个蓝色的圆和一个红色的方块
圆是红色的，方块是蓝色的 | 圆是蓝色的，方块是红色的
上方有一个红色的圆，下方有一个蓝色的方块 | 上方有一个蓝色的圆，下方有一个红色的方块
左边有一只猫，右边有一只狗 | 左边有一只狗，右边有一只猫
两只猫和三只狗 | 三只猫和两只狗
十二只猫 | 十五只猫
two cats and three dogs | three cats and two dogs
a cat on the left and a dog on the right | a dog on the left and a cat on the right
a cat on the left and a dog on the right | on the left a dog and on the right a cat
a cat left of a dog | a dog left of a cat
a cat behind a house | a house behind a cat
12 red balloons | 15 red balloons
37 cats | 38 cats
twelve cats | cats
a dozen eggs | eggs
a turquoise car | a car
a gold star | a star
a silver star | a star
a beige car | a car
a cyan car | a car
a magenta car | a car
a cat beside a tree | a cat and a tree
a cat between two trees | a cat near two trees
a cat between a dog and a tree | a dog between a cat and a tree
a house that is red and a tree that is blue | a house that is blue and a tree that is red
a small red cat and a large blue cat | a small blue cat and a large red cat
a cat | a small cat
a car on the left seen from above | a blue car on the left seen from above
a cat | a cat on the left'''

SAME = '''
a red circle above a blue square | a blue square with a red circle above it
a red circle above a blue square | a blue square, and above it a red circle
a red circle above a blue square | over a blue square floats a red circle
a red circle above a blue square | a red circle on top of a blue square
a cat on the left and a dog on the right | on the left, a cat, and on the right, a dog
a cat on the left and a dog on the right | a dog at the right, a cat at the left
a cat on the left and a dog on the right | a cat sits on the left while a dog is sitting on the right
a cat left of a dog | a dog to the right of a cat
a cat behind a house | a house in front of a cat
a cat beside a tree | a tree with a cat beside it
a cat between a dog and a tree | between a dog and a tree there is a cat
two cats and three dogs | three dogs and a pair of cats
12 red balloons | twelve crimson balloons
twelve cats | a dozen cats
a gold star | a golden star
a red and white cat | a cat in red and white
a house that is red and a tree that is blue | a red house and a blue tree
a red triangle | a crimson three-sided shape
a red cat on the left | a simple drawing that shows a red cat on the left
a red cat on the left | a red cat on the left, seen from the front
a red ball under a blue sky | beneath a blue sky, a crimson ball
红色的圆在蓝色的方块上方 | 蓝色的方块在红色的圆下方
红色的圆在蓝色的方块上方 | 在蓝色方块的上方有一个红色的圆
左边有一只猫，右边有一只狗 | 一只猫在左边，一只狗在右边
画面左边有一只猫 | 一只猫在画面左侧
一个红色的三角形 | 红色三角形'''

def pairs(text): return [tuple(line.split(' | ')) for line in text.strip().splitlines()]

@pytest.mark.parametrize('old,new', pairs(OTHER))
def test_another_meaning_is_caught(old, new): assert same_meaning(old, new) and same_meaning(new, old)

@pytest.mark.parametrize('old,new', pairs(SAME) + [(a, b) for a, bs in _SHOTS for b in bs])
def test_the_same_in_other_words_passes(old, new): assert same_meaning(old, new) == ''

def test_rewritings_of_scenes_pass():
    "Any two captions of one scene, in one language"
    made = scenes(200, split='train', seed=0); good = []
    for cs, ls in zip(made.captions, made.langs):
        good += [same_meaning(a, b) == '' for a, l in zip(cs, ls) for b, m in zip(cs, ls) if a != b and l == m]
    assert len(good) == 3600 and sum(good) >= .98*len(good), sum(good)/len(good)

def test_captions_of_other_scenes_do_not():
    made = scenes(200, split='train', seed=0)
    for k in (0, 4): assert sum(same_meaning(made.captions[i][k], made.captions[i - 1][k]) == '' for i in range(200)) <= 1

def test_daytime_is_no_colour(): assert meanings('白天，下雨，草地上有一颗五角星，黄昏，三角形') == set()

@pytest.mark.parametrize('language', ['English', 'english', 'EN', 'en-GB', 'en_US', 'British English', '英语', 'Chinese', 'Simplified Chinese', 'ZH', 'zh-TW', '中文'])
def test_every_name_of_a_language_is_checked(language):
    zh = 'h' in language.lower()[-7:] and 'lish' not in language.lower() or language == '中文'
    old, good, bad = ('一个红色的圆', '红色的圆', '一个蓝色的圆') if zh else ('a red circle', 'a crimson circle', 'a blue circle')
    r = ChatGPTRewriter(n=2, language=language, base_url='http://127.0.0.1:9/v1')
    assert r.survivors(Shot('', captions=[old]), [(language, good), (language, bad)]) == [(language, good)]

def test_other_languages_have_no_table():
    with pytest.warns(UserWarning, match='checked in German'): r = ChatGPTRewriter(n=2, language='German', base_url='http://127.0.0.1:9/v1')
    assert len(r.survivors(Shot('', captions=['a red circle']), [('German', 'ein roter Kreis')])) == 1

# --- wishes

@pytest.mark.parametrize('bad', [['x'], {'x': 1}, None, 3, True, 1.5])
def test_ids_that_are_no_text(bad):
    wrong = dict(id=bad, captions=['a', 'b'])
    with pytest.raises(LLMBadResponse): read_items(dict(items=[wrong]), ['x'], Wishes(n=2))
    assert set(read_items(dict(items=[wrong, dict(id='x', captions=['a', 'b'])]), ['x'], Wishes(n=2))) == {0}

def test_each_language_needs_half_of_its_captions():
    w = Wishes(n=2, language=['English', 'Chinese'])
    def read(**captions): return read_items(dict(items=[dict(id='x', captions=captions)]), ['x'], w)
    with pytest.raises(LLMBadResponse): read(English=['a cat', 'one cat'])
    with pytest.raises(LLMBadResponse): read(English=['a cat', 'one cat'], Chinese=[' '])
    assert [l for l, _ in read(English=['a cat', 'one cat'], Chinese=['一只猫'])[0]] == ['English', 'English', 'Chinese']

@pytest.mark.parametrize('word,text,held', [
    ('图片', '一张红色的图片', True), ('照片', '一张红色的图片', False), ('cat', 'a category', False), ('cat', 'a CAT', True), ('cat', 'two cats', True),
    ('box', 'two boxes', True), ('red', 'a redhead', False), ('cat', '一只cat', True), ('C++', 'a C++ logo', True), ('고양이', '빨간 고양이가', True), ('old cat', 'an old cat', True)])
def test_words_wished_for_and_not(word, text, held):
    assert bool(tidy(text, Wishes(include=[word]))) == held and bool(tidy(text, Wishes(avoid=[word]))) != held

# --- tokens that a server counted

@pytest.mark.parametrize('n', [2**31, 2**64, 10**400, -1, True, 1.5, '7', None])
def test_impossible_numbers_of_tokens(n):
    for pair in ((n, 2), (2, n)): assert usage_of(dict(usage=dict(zip(('prompt_tokens', 'completion_tokens'), pair)))) is None

def test_numbers_of_tokens_fit_the_ledger():
    most = usage_of(dict(usage=dict(prompt_tokens=2**31 - 1, completion_tokens=0)))
    assert sqlite3.connect(':memory:').execute('select ?', most[:1]).fetchone()[0] == 2**31 - 1

# --- prompts

def answers(*rounds):
    "A `ChatGPT` that gives these lists of prompts, then raises what is no list; and what it was asked"
    asked = []
    class Chat:
        def ask(self, system, user, schema, check, tokens, purse):
            asked.append(json.loads(user)); now = rounds[min(len(asked), len(rounds)) - 1]
            if isinstance(now, Exception): raise now
            return type('A', (), dict(data=check(dict(prompts=now))))
    return Chat(), asked

def test_all_words_of_a_large_vocabulary_are_offered():
    known = [f'{c}{i}' for c in 'abcdefghij' for i in range(500)]
    chat, asked = answers(*[[f'{c}{i} {c}{i+1}' for c in 'abcdefghij'] for i in range(8)])
    write_prompts('x', n=60, words=known, chat=chat, strict=False, per_call=10)
    offered = [a['words'] for a in asked]
    assert all(len(set(o)) == 1500 and {w[0] for w in o} == set('abcdefghij') for o in offered)
    assert len(set().union(*offered)) > 3500
    again, asked2 = answers(*[[f'{c}{i} {c}{i+1}' for c in 'abcdefghij'] for i in range(8)])
    write_prompts('x', n=60, words=known, chat=again, strict=False, per_call=10)
    assert [a['words'] for a in asked2] == offered                              # the same each time
    few, asked = answers([f'red thing {i}' for i in range(9)]); write_prompts('x', n=3, words=['red', 'thing'], chat=few)
    assert asked[0]['words'] == ['red', 'thing']

def test_chinese_prompts_in_the_words_of_a_model():
    words = tiny_words(['一只红色的猫在草地上', '蓝色的船在水面上', '一棵绿色的树', 'a red cat'])
    class Pipe: pass
    pipe = Pipe(); pipe.words = words
    for known in (words, pipe):
        chat, _ = answers(['红色的船', '一只蓝色的猫', '一棵红色的树', '一只蓝色的鹅'])
        assert write_prompts('x', n=3, words=known, language='Chinese', chat=chat) == ['红色的船', '一只蓝色的猫', '一棵红色的树']
    chat, _ = answers(['一只红色的猫', '红色的鹅'])
    assert write_prompts('x', n=2, words=['红色', '猫'], language='Chinese', chat=chat) == ['一只红色的猫']

@pytest.mark.parametrize('end', [LLMQuotaError('no credit'), BudgetExceeded('the budget')])
def test_prompts_that_were_paid_for_are_kept(end, tmp_path):
    chat, _ = answers(['a red cat', 'a blue dog'], end); file = tmp_path/'p.txt'
    with pytest.raises(PromptganError) as e: write_prompts('x', n=50, chat=chat, save=file)
    assert e.value.result == ['a red cat', 'a blue dog'] == file.read_text().splitlines()
    chat, _ = answers(end); file.write_text('old\n')
    with pytest.raises(PromptganError): write_prompts('x', n=50, chat=chat, save=file)
    assert file.read_text() == 'old\n'                                           # nothing came: nothing is overwritten

def test_prompts_of_a_server_without_credit(tmp_path):
    with FaultServer(script=[None, 'quota']) as s, pytest.raises(LLMQuotaError) as e: write_prompts('x', 100, per_call=10, save=tmp_path/'p.txt', chat=ChatGPT(base_url=s.url))
    assert len(e.value.result) > 4 and (tmp_path/'p.txt').read_text().splitlines() == e.value.result

# --- rewriting what is in a folder

def pictures(root, *names):
    from PIL import Image
    for i, n in enumerate(names): (root/n).parent.mkdir(parents=True, exist_ok=True); Image.new('RGB', (8, 8), (i, 50, 99)).save(root/n)
    return root

def rows(folder): return {r['file_name']: r['captions'] for r in map(json.loads, (folder/'metadata.jsonl').read_text(encoding='utf8').splitlines())}

def test_a_rewriting_stays_with_its_picture(serve, tmp_path):
    "The label of one picture was rewritten; another of the same folder has a caption by hand, and an answer of its own"
    s = serve(); folder = pictures(tmp_path, 'cat/1.png', 'cat/2.png')
    (folder/'metadata.jsonl').write_text(json.dumps(dict(file_name='cat/2.png', text='two black cats')) + '\n')
    cap = ChatGPTRewriter(n=2, per_call=1, base_url=s.url); caption_folder(folder, cap, progress=False); first = rows(folder)
    r = caption_folder(folder, cap, progress=False); assert r.new == 0 and rows(folder) == first and len(first) == 2 and first['cat/2.png'][0] == 'two black cats'

def test_our_captions_are_rewritten_too(serve, tmp_path):
    s = serve(); folder = pictures(tmp_path, 'red circle/a.png', 'blue square/b.png'); caption_folder(folder, ChatGPTCaptioner(n=2, base_url=s.url), progress=False); ours = rows(folder)
    cap = ChatGPTRewriter(n=2, base_url=s.url); r = caption_folder(folder, cap, replace=True, progress=False)   # what is rewritten stays: else it would be asked about again
    assert sorted(i['captions'] for i in s.asked[-1]['payload']['items']) == sorted(ours.values())     # not the labels
    assert (r.new, r.failed) == (2, {}) and all(rows(folder)[n][:2] == cs and len(rows(folder)[n]) > 2 for n, cs in ours.items())
    assert caption_folder(folder, cap, progress=False).new == 0                          # its own are not rewritten again

@pytest.mark.parametrize('code', ['cp1252', 'utf-8-sig', 'utf-16'])
def test_captions_by_hand_in_another_encoding(code, tmp_path):
    folder = pictures(tmp_path, 'a.png', 'b.png'); lines = [dict(file_name='a.png', text='café rouge'), dict(file_name='b.png', text='été')]
    (folder/'metadata.jsonl').write_bytes('\n'.join(json.dumps(l, ensure_ascii=False) for l in lines).encode(code))
    caption_folder(folder, TemplateCaptioner(templates=['一张{name}的图片'], n=1), progress=False)
    assert rows(folder) == {'a.png': ['café rouge', '一张a的图片'], 'b.png': ['été', '一张b的图片']}

class Moody(ChatGPTRewriter):
    "Answers the first question, and raises at the others"
    error, asked = None, 0
    def ask(self, jobs, purse=None, stop=None):
        self.asked += 1
        if self.asked > 1 or self.error is None: raise self.error or LLMBadResponse('no captions came back')
        return {i: [f'{s.captions[0]} again'] for i, (s, _) in enumerate(jobs)}, None

def moody(error): r = Moody(n=1, per_call=1, base_url='http://127.0.0.1:9/v1'); r.error = error; return r

def offline():
    e = LLMBadResponse('no connection to HOST'); e.unsent = True; return e

@pytest.mark.parametrize('error', [KeyboardInterrupt(), SystemExit(143), BudgetExceeded('max_usd'), offline()])
def test_rewritings_that_are_paid_are_kept(error, tmp_path):
    caps = [f'a cat {i}' for i in range(6)]
    with pytest.raises(type(error)) as e: rewrite_captions(caps, moody(error), workers=1)
    assert e.value.result == {caps[0]: ['a cat 0 again']}                                # the rest was not asked, so there is no answer
    data = scenes(3, split='train'); file = tmp_path/'rewritten.json'
    with pytest.raises(type(error)): rewrite_data(data, moody(error), file, workers=1)
    assert list(json.loads(file.read_text())) == [data.captions[0][0]]

def test_an_outage_ends_rewriting():
    with pytest.raises(LLMError, match='25 questions in a row failed, the last: no captions'): rewrite_captions([f'a cat {i}' for i in range(99)], moody(None), workers=1)

def test_prompts_say_why_there_are_none():
    with pytest.raises(LLMError, match='no connection to 127.0.0.1'): write_prompts('cats', 5, base_url='http://127.0.0.1:9/v1', attempts=1)

def test_a_price_is_that_of_its_server():
    from promptgan.prices import find_price
    name = 'gpt-6-luna'; assert find_price(name) == find_price(name, 'https://eu.api.openai.com/v1') and find_price(name)
    assert find_price(name, 'https://openai.com.example.com/v1') is None and find_price(name, 'https://models.example.com/v1', {name: [1, 2]}).read == 1

def test_a_look_at_an_unknown_price_needs_a_number_of_calls(tmp_path):
    far = ChatGPTCaptioner(n=1, model='m', base_url='https://models.example.com/v1')
    for look in (far.estimate, far.preview):
        with pytest.raises(InputError, match='max_calls'): look(pictures(tmp_path, 'a.png'))
    assert far.estimate(tmp_path, k=0).usd is None

def test_questions_under_way_at_ctrl_c_are_not_asked_twice(serve, tmp_path, monkeypatch):
    "The answers come after more than the 5 s for which the interrupted run waits"
    import time
    from promptgan.bulk import _Run
    s = serve(latency=7.); folder = pictures(tmp_path, 'a/1.png', 'b/2.png'); cap = ChatGPTCaptioner(n=1, base_url=s.url); start = _Run.start
    def interrupted(self, workers):
        start(self, workers)
        while len(s.asked) < 2: time.sleep(.01)
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(_Run, 'start', interrupted)
        with pytest.raises(KeyboardInterrupt): caption_folder(folder, cap, progress=False)
    r = caption_folder(folder, cap, progress=False); assert len(s.asked) == 2 and len(r.captions) == 2

def test_shortened_captions_are_counted(serve, tmp_path):
    s = serve(); r = caption_folder(pictures(tmp_path, 'a/1.png'), ChatGPTCaptioner(n=2, max_words=2, base_url=s.url), progress=False)
    assert r.shortened > 0 and f'{r.shortened} shortened' in str(r) and all(len(c.split()) <= 2 for c in r.captions['a/1.png'])
