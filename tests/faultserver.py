"""A ChatGPT that runs on this machine: real response schemas, answers that follow from the request, and faults on order.

Standard library only. Tests and notebooks use it in place of the real server:

    with FaultServer() as server: ...                      # server.url is a base_url; server.asked the requests
    with FaultServer(script=['429', None, 'cut']) as s:    # faults in the order of the requests, then none
    with FaultServer(mix=.2, seed=0) as s:                 # a fault in 20% of the requests, of any kind
    python tests/faultserver.py --latency .2               # in a process of its own; prints its address
"""
import argparse, hashlib, json, random, re, socket, struct, sys, threading, time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

MODELS = ('gpt-6-luna', 'gpt-4o-mini')
# faults after which asking again helps; a run must end with every item captioned or listed
PASSING = ('429', '500', '502', '503', 'reset', 'cut', 'cutchunk', 'badjson', 'empty', 'html', 'null', 'list', 'deep', 'badutf8',
           'nochoices', 'nullchoices', 'nullmessage', 'nullcontent', 'wrongtypes', 'nousage', 'length', 'wrongid', 'fewer', 'twice')
LASTING = ('refusal', 'filter')   # the same picture is refused again

# --- answers that follow from the request

def _texts(body):
    "All texts that the user sent, in order"
    for m in body.get('messages', []):
        if m.get('role') != 'user': continue
        c = m.get('content')
        if isinstance(c, str): yield c
        else: yield from (p.get('text', '') for p in c or [] if isinstance(p, dict) and p.get('type') == 'text')

def payload(body):
    "The JSON object that the request is about: the last text of the user that is one"
    found = {}
    for t in _texts(body):
        try: o = json.loads(t)
        except ValueError: continue
        if isinstance(o, dict): found = o
    return found

_WAYS = ('a {}', 'a picture of a {}', 'a simple drawing that shows a {}', 'here you see a {}', '{}, seen from the front', 'one {} and nothing else')
_SAME = dict(circle='disc', square='block', triangle='three-sided shape', small='little', large='big', upper='top', lower='bottom', red='crimson',
             orange='tangerine', yellow='golden', green='emerald', blue='azure', purple='violet', pink='rosy', house='cottage', boat='ship',
             car='automobile', cat='kitten', flower='blossom', umbrella='parasol', mushroom='toadstool', rocket='spaceship')

def _caption(item, k, language):
    "Caption number `k` of an item: the words of its label or of a caption that it has"
    words = str(item.get('label') or (item.get('captions') or [''])[0] or 'something')
    words = re.sub(r'^(an?|the) ', '', words)
    if item.get('captions'): words = ' '.join(_SAME.get(w, w) if (i + k) % 2 else w for i, w in enumerate(words.split()))
    said = _WAYS[k % len(_WAYS)].format(words) + (f' {k//len(_WAYS) + 1}' if k >= len(_WAYS) else '')
    return said if language in ('', 'English') else f'[{language}] {said}'

_THINGS = 'apple boat cat dog elephant fox guitar house island jug kite lemon mushroom notebook owl pear rocket ship tree umbrella'.split()
_COLOURS = 'red orange yellow green blue purple pink white black brown'.split()
_PLACES = ['on a table', 'in the snow', 'under a tree', 'at night', 'on a beach', 'beside a river', 'in the rain', 'on a hill']

_SMALL = set('a an on in at the under beside'.split())

def _prompts(o):
    "As many prompts as asked; every fifth repeats the one before, as models do"
    start = int(hashlib.sha256(json.dumps(o.get('avoid') or []).encode()).hexdigest(), 16) % 1600
    for i in range(start, start + int(o.get('count', 1))):
        j = i - (i % 5 == 4); known = set(o.get('words') or []) if j % 3 else None   # every third is not what was asked for
        def pick(all, k): some = [w for w in all if not known or set(w.split()) - _SMALL <= known] or all; return some[k % len(some)]
        yield f'a {pick(_COLOURS, j)} {pick(_THINGS, j*7 + j//20)} {pick(_PLACES, j//10)}'

def _grounded(o):
    "The words of the prompt that are known, with a few that mean the same"
    same = dict(crimson='red', kitty='cat', kitten='cat', huge='large', ship='boat', rot='red', rojo='red', gato='cat', azure='blue')
    known = set(o.get('words', []))
    return ' '.join(w for w in (same.get(w, w) for w in re.findall(r'\w+', str(o['prompt']).lower())) if w in known)

def answer(body):
    "The object that a good model would send"
    o = payload(body)
    if 'items' in o:
        n, langs = int(o.get('captions_each', 1)), o.get('languages') or ['']
        def captions(it):
            each = {l: [_caption(it, k, l) for k in range(n)] for l in langs}
            return each if len(langs) > 1 else each[langs[0]]
        return dict(items=[dict(id=it.get('id'), captions=captions(it)) for it in o['items']])
    if 'topic' in o: return dict(prompts=list(_prompts(o)))
    if 'prompt' in o: return dict(prompt=_grounded(o))
    return None

def _tokens(body):
    "About as many tokens as the request has: four letters each, 85 for a picture"
    text = sum(len(t) for t in _texts(body)) + sum(len(str(m.get('content'))) for m in body.get('messages', []) if m.get('role') == 'system')
    pics = sum(p.get('type') == 'image_url' for m in body.get('messages', []) if isinstance(m.get('content'), list) for p in m['content'])
    return text//4 + 85*pics

def completion(body, content=None, finish='stop', refusal=None, usage=True):
    "A `chat.completion` object"
    if content is None and refusal is None:
        o = answer(body)
        content = json.dumps(o, ensure_ascii=False) if o is not None else f'You said: {" ".join(_texts(body))}'
    code = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
    n = _tokens(body)
    out = dict(id=f'chatcmpl-{code}', object='chat.completion', created=int(time.time()), model=f"{body.get('model')}-2026-10-01",
               service_tier='default', system_fingerprint='fp_local', choices=[dict(index=0, finish_reason=finish, logprobs=None,
               message=dict(role='assistant', content=content, refusal=refusal, annotations=[]))])
    if usage: out['usage'] = dict(prompt_tokens=n, completion_tokens=len(content or refusal or '')//4 + 1,
                                  total_tokens=n + len(content or refusal or '')//4 + 1)
    return out

def error(message, type='invalid_request_error', code=None, param=None):
    "The body of an error"
    return dict(error=dict(message=message, type=type, param=param, code=code))

# --- faults: each takes the handler and the request; returns True when it has answered

def _changed(change):
    "A fault that changes a good completion"
    def fault(h, body):
        o = completion(body); out = change(o, body)
        h.send(200, out if out is not None else o); return True
    return fault

def _raw(data, type='application/json', status=200):
    def fault(h, body): h.send(status, data, type); return True
    return fault

def _content(change):
    "A fault that changes the answer inside of a completion"
    def fault(o, body):
        a = answer(body)
        if not a or 'items' not in a: return
        a['items'] = change(a['items']); o['choices'][0]['message']['content'] = json.dumps(a)
    return _changed(fault)

def _set(**kw):
    return _changed(lambda o, body: o.update(kw))

def _cut(h, body):
    "The length is promised, the connection ends in the middle"
    data = json.dumps(completion(body)).encode()
    h.head(200, 'application/json', len(data)); h.wfile.write(data[:len(data)//2]); h.wfile.flush(); h.hang_up(); return True

def _cutchunk(h, body):
    h.head(200, 'application/json', None, {'Transfer-Encoding': 'chunked'})
    h.wfile.write(b'40\r\n{"id":"chatcmpl-1","object":"chat'); h.wfile.flush(); h.hang_up(); return True

def _reset(h, body):
    "The connection is reset before an answer"
    h.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); h.hang_up(); return True

def _hang(h, body): h.server.over.wait(60); h.close_connection = True; return True

def _drip(h, body):
    "A byte every 50 ms, for ever"
    h.head(200, 'application/json', 10_000_000)
    while not h.server.over.wait(.05): h.wfile.write(b' '); h.wfile.flush()
    return True

def _slowhead(h, body):
    "A header that never ends"
    h.wfile.write(b'HTTP/1.1 200 OK\r\nX-Slow: ')
    while not h.server.over.wait(.05): h.wfile.write(b'a'); h.wfile.flush()
    return True

def _no_schema(h, body):
    "A server that does not know json_schema"
    if body.get('response_format', {}).get('type') != 'json_schema': return False
    h.send(400, error("'response_format.type' must be one of 'text', 'json_object'", param='response_format')); return True

def _no_schema_500(h, body):
    "llama-cpp-python's way of saying the same"
    if body.get('response_format', {}).get('type') != 'json_schema': return False
    h.send(500, error('Internal Server Error', 'internal_server_error')); return True

def _no_format(h, body):
    "A server that knows no response_format at all"
    if not body.get('response_format'): return False
    h.send(400, error('response_format is not supported', param='response_format')); return True

def _no_tokens(h, body):
    "A server that does not know max_tokens, as new models of OpenAI behind other addresses"
    if 'max_tokens' not in body: return False
    h.send(400, error("Unsupported parameter: 'max_tokens'", param='max_tokens')); return True

def _echo(h, body):
    "An error message that repeats the key, as some proxies do"
    h.send(401, error(f"Incorrect API key provided: {h.headers.get('Authorization', '')[7:]}", code='invalid_api_key')); return True

def _limit(wait):
    def fault(h, body):
        h.send(429, error('Rate limit reached for requests', 'requests', 'rate_limit_exceeded'), headers={'Retry-After': wait} if wait else {})
        return True
    return fault

_HTML = b'<html><body><h1>502 Bad Gateway</h1></body></html>'
FAULTS = dict(
    limit=_limit(None), quota=lambda h, b: h.send(429, error('You exceeded your current quota, please check your plan and billing details.',
                                                             'insufficient_quota', 'insufficient_quota')) or True,
    auth=lambda h, b: h.send(401, error('Incorrect API key provided.', code='invalid_api_key')) or True, echo=_echo,
    forbidden=lambda h, b: h.send(403, error('Country, region, or territory not supported', code='unsupported_country_region_territory')) or True,
    nomodel=lambda h, b: h.send(404, error('The model does not exist or you do not have access to it.', code='model_not_found')) or True,
    badrequest=lambda h, b: h.send(400, error('Invalid image.', code='invalid_image_format')) or True,
    reset=_reset, cut=_cut, cutchunk=_cutchunk, hang=_hang, drip=_drip, slowhead=_slowhead,
    badjson=_changed(lambda o, b: o['choices'][0]['message'].update(content='{"items": [{"id": "1", "capt')),
    empty=_raw(b''), html=_raw(_HTML, 'text/html'), null=_raw(b'null'), list=_raw(b'[1, 2]'), deep=_raw(b'['*200_000),
    badutf8=_raw(b'{"id": "\xff\xfe\xc3"}'), bom=lambda h, b: h.send(200, b'\xef\xbb\xbf' + json.dumps(completion(b)).encode()) or True,
    nochoices=_set(choices=[]), nullchoices=_set(choices=None), wrongtypes=_set(choices={'a': 1}, usage='many', model=7),
    nullmessage=_changed(lambda o, b: o['choices'][0].update(message=None)),
    nullcontent=_changed(lambda o, b: o['choices'][0]['message'].update(content=None)),
    nousage=_changed(lambda o, b: o.pop('usage') and None), oddusage=_set(usage=dict(prompt_tokens=-5, completion_tokens='x', total_tokens=None)),
    length=lambda h, b: h.send(200, completion(b, '{"items": [{"id": "1", "captions": ["a long', 'length')) or True,
    filter=lambda h, b: h.send(200, completion(b, '', 'content_filter')) or True,
    refusal=lambda h, b: h.send(200, completion(b, None, 'stop', "I'm sorry, I can't help with that.")) or True,
    wrongid=_content(lambda items: [dict(i, id='someone else') for i in items]),
    fewer=_content(lambda items: items[:-1] if len(items) > 1 else []), twice=_content(lambda items: items + items[:1]),
    shuffled=_content(lambda items: items[::-1]), swapped=_content(lambda items: [dict(a, id=b['id']) for a, b in zip(items, items[1:] + items[:1])]),
    short=_content(lambda items: [dict(i, captions=i['captions'][:1]) for i in items]),
    noschema=_no_schema, noschema500=_no_schema_500, noformat=_no_format, notokens=_no_tokens)

def _other(name):
    "Faults with a number or an address: '500', '429:2', 'redirect:URL', 'says:TEXT'"
    kind, _, arg = name.partition(':')
    if kind == '429': return _limit(formatdate(time.time() + float(arg[5:]), usegmt=True) if arg.startswith('date+') else arg or '0.02')
    if kind == 'redirect': return lambda h, b: h.send(307, b'', headers={'Location': arg}) or True
    if kind == 'says': return _content(lambda items: [dict(i, captions=[json.loads(f'"{arg}"')]*len(i['captions'])) for i in items])
    status = int(kind)
    return _raw(_HTML, 'text/html', status) if status == 502 else _raw(json.dumps(error('The server had an error', 'server_error')).encode(), status=status)

# --- the server

class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def log_message(self, *args): pass

    def head(self, status, type, length, headers=None):
        self.send_response(status); self.send_header('Content-Type', type); self.send_header('x-request-id', f'req_{self.server.count}')
        if length is not None: self.send_header('Content-Length', str(length))
        for k, v in (headers or {}).items(): self.send_header(k, v)
        self.end_headers()

    def send(self, status, body, type='application/json', headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode('utf8', 'surrogatepass')
        self.head(status, type, len(data), headers); self.wfile.write(data); self.wfile.flush()

    def hang_up(self):
        self.close_connection = True
        try: self.connection.shutdown(socket.SHUT_RDWR)
        except OSError: pass
        self.connection.close()

    def stream(self, body):
        "The answer as server-sent events"
        o = completion(body); text = o['choices'][0]['message']['content']; self.close_connection = True
        self.head(200, 'text/event-stream', None, {'Connection': 'close'})
        base = {k: o[k] for k in ('id', 'created', 'model')} | dict(object='chat.completion.chunk')
        parts = [dict(role='assistant', content='')] + [dict(content=text[i:i + 12]) for i in range(0, len(text), 12)] + [{}]
        for i, delta in enumerate(parts):
            chunk = base | dict(choices=[dict(index=0, delta=delta, finish_reason='stop' if i == len(parts) - 1 else None)])
            self.wfile.write(f'data: {json.dumps(chunk)}\n\n'.encode())
        if body.get('stream_options', {}).get('include_usage'):
            self.wfile.write(f"data: {json.dumps(base | dict(choices=[], usage=o['usage']))}\n\n".encode())
        self.wfile.write(b'data: [DONE]\n\n')

    def chat(self, data):
        try: body = json.loads(data)
        except ValueError: return self.send(400, error('We could not parse the JSON body of your request.'))
        s = self.server; fault = s.note(body, dict(self.headers))
        if s.latency: time.sleep(s.latency)
        if fault and (FAULTS.get(fault) or _other(fault))(self, body): return
        if body.get('model') in s.missing: return FAULTS['nomodel'](self, body)
        self.stream(body) if body.get('stream') else self.send(200, completion(body))

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get('Content-Length') or 0)); path = urlsplit(self.path).path
        try:
            if path.endswith('/chat/completions'): self.chat(data)
            elif path.endswith('/files'): self.send(200, self.server.upload(data, self.headers.get('Content-Type', '')))
            elif path.endswith('/batches'): self.start(json.loads(data))
            elif path.endswith('/cancel'): self.send(200, self.server.change(path.split('/')[-2], 'cancelled'))
            else: self.send(404, error('Unknown request URL'))
        except (BrokenPipeError, ConnectionError): self.close_connection = True

    def start(self, body):
        "Start a batch; the answer may say otherwise"
        job, status = self.server.start_batch(body), self.server.starts.pop(0) if self.server.starts else 200
        self.send(status, job if status == 200 else error('The server had an error', 'server_error'))

    def do_GET(self):
        url = urlsplit(self.path); parts = url.path.strip('/').split('/'); s = self.server
        try:
            if parts[-1] == 'models': self.send(200, dict(object='list', data=[dict(id=m, object='model', created=0, owned_by='local') for m in MODELS]))
            elif parts[-1] == 'log': self.send(200, s.log())
            elif parts[-2] == 'batches': self.send(200, s.batch(parts[-1]))
            elif parts[-1] == 'batches': self.send(200, s.page(parse_qs(url.query)))
            elif parts[-1] == 'content': self.send(200, s.files[parts[-2]], 'application/octet-stream')
            else: self.send(404, error('Unknown request URL'))
        except (BrokenPipeError, ConnectionError): self.close_connection = True
        except KeyError: self.send(404, error('No such object'))

class FaultServer(ThreadingHTTPServer):
    "A server on this machine; use it as a context manager"
    daemon_threads, request_queue_size = True, 128

    def __init__(self, script=(), mix=0., kinds=PASSING, seed=0, latency=0., by=None, missing=(), port=0, batch_faults=None, starts=()):
        self.script, self.mix, self.kinds, self.latency, self.by, self.missing = list(script), mix, kinds, latency, by, missing
        self.asked, self.count, self.lock, self.over, self.rng = [], 0, threading.Lock(), threading.Event(), random.Random(seed)
        self.files, self.batches, self.batch_faults, self.counts, self.keys = {}, {}, batch_faults or {}, {}, set()
        self.starts, self.pages = list(starts), 0   # statuses that answer requests to start a batch, which is started all the same
        super().__init__(('127.0.0.1', port), _Handler)
        self.url = f'http://127.0.0.1:{self.server_port}/v1'

    def __enter__(self): threading.Thread(target=self.serve_forever, args=(.02,), daemon=True).start(); return self
    def __exit__(self, *_): self.over.set(); self.shutdown(); self.server_close()
    def handle_error(self, request, client): pass   # cut connections are on purpose

    def note(self, body, headers):
        "Remember a request (without its pictures); which fault it gets"
        with self.lock:
            self.count += 1; o = payload(body)
            fault = self.script.pop(0) if self.script else None
            if fault is None and self.by: fault = self.by(o)
            if fault is None and self.rng.random() < self.mix: fault = self.rng.choice(self.kinds)
            self.asked.append(dict(payload=o, fault=fault, time=time.time(), model=body.get('model'), keys=sorted(body),
                                   format=(body.get('response_format') or {}).get('type'), auth={k.lower(): v for k, v in headers.items()}.get('authorization', '')))
            self.body = body
            return fault

    def labels(self, answered=False):
        "The label of each item that was asked for, in order; `answered`: only in requests without a fault"
        with self.lock: return [i.get('label') for a in self.asked if not (answered and a['fault']) for i in a['payload'].get('items', [])]

    def log(self):
        with self.lock: return [dict(labels=[i.get('label') for i in a['payload'].get('items', [])], fault=a['fault'], time=a['time']) for a in self.asked]

    # files and batches

    def upload(self, data, type):
        "Keep the file of a multipart form"
        mark = re.search('boundary=([^;]+)', type)[1].strip('"').encode()
        parts = [p.partition(b'\r\n\r\n') for p in data.split(b'--' + mark)]
        content = next(c.removesuffix(b'\r\n') for h, _, c in parts if b'filename=' in h)
        with self.lock: name = f'file-{len(self.files) + 1}'; self.files[name] = content
        return dict(id=name, object='file', bytes=len(content), created_at=int(time.time()), filename='batch.jsonl', purpose='batch', status='processed')

    def start_batch(self, body):
        with self.lock:
            name = f'batch_{len(self.batches) + 1}'; now = int(time.time())
            n = self.files[body['input_file_id']].count(b'\n')
            self.batches[name] = dict(id=name, object='batch', endpoint=body['endpoint'], errors=None, input_file_id=body['input_file_id'],
                completion_window='24h', status='validating', output_file_id=None, error_file_id=None, created_at=now, expires_at=now + 86400,
                request_counts=dict(total=n, completed=0, failed=0), metadata=body.get('metadata'))
            return self.batches[name]

    def page(self, query):
        "Part of the list of batches, the newest first"
        all = list(self.batches.values())[::-1]; limit = int(query.get('limit', ['20'])[0]); self.pages += 1
        start = [b['id'] for b in all].index(query['after'][0]) + 1 if 'after' in query else 0
        return dict(object='list', data=all[start:start + limit], has_more=start + limit < len(all))

    def change(self, name, status):
        with self.lock: self.batches[name]['status'] = status; return self.batches[name]

    def batch(self, name):
        "The state of a batch; it is done when asked for the second time"
        with self.lock:
            b = self.batches[name]; self.counts[name] = self.counts.get(name, 0) + 1
            if b['status'] == 'validating': b['status'] = 'in_progress'
            elif b['status'] == 'in_progress': self._finish(b)
            return b

    def _finish(self, b):
        "Work through the file: the results come in reverse order; `batch_faults` maps a line number to a fault"
        good, bad = [], []
        for i, line in enumerate(self.files[b['input_file_id']].splitlines()):
            row = json.loads(line); fault = self.batch_faults.get(i); out = dict(id=f'batch_req_{i}', custom_id=row['custom_id'], error=None)
            if fault == 'lost': continue
            if fault == 'error':
                bad.append(dict(out, response=dict(status_code=500, request_id=f'req_{i}', body=error('The server had an error', 'server_error')))); continue
            if fault == 'expired':
                bad.append(dict(out, response=None, error=dict(code='batch_expired', message='This request could not be executed before the completion window expired.'))); continue
            content = dict(refusal=dict(refusal='I cannot help with that.'), badjson=dict(content='{"items": ['), length=dict(content='{"it', finish='length'), nousage=dict(usage=False)).get(fault, {})
            good.append(dict(out, response=dict(status_code=200, request_id=f'req_{i}', body=completion(row['body'], **content))))
            if fault == 'stranger': good[-1]['custom_id'] = 'nobody'
        text = lambda rows: ''.join(json.dumps(r) + '\n' for r in reversed(rows)).encode()
        n = len(self.files)
        if good: self.files[f'file-{n + 1}'] = text(good); b['output_file_id'] = f'file-{n + 1}'
        if bad: self.files[f'file-{n + 2}'] = text(bad); b['error_file_id'] = f'file-{n + 2}'
        b['status'] = 'expired' if any('error' in r and r['error'] for r in bad) else 'completed'
        b['request_counts'].update(completed=len(good), failed=len(bad))

if __name__ == '__main__':
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument('--port', type=int, default=0); args.add_argument('--latency', type=float, default=0.)
    args.add_argument('--mix', type=float, default=0.); args.add_argument('--seed', type=int, default=0)
    args = args.parse_args()
    server = FaultServer(mix=args.mix, seed=args.seed, latency=args.latency, port=args.port)
    print(server.url, flush=True)
    try: server.serve_forever()
    except KeyboardInterrupt: sys.exit(130)
