"From a prompt to a picture: milliseconds of each part, pictures per second of batches, seconds to load, all in one run"
import argparse, statistics, subprocess, sys, time
import torch
from promptgan.core import default_device, pick_precision, to_pil
from promptgan.pipeline import TextToImagePipeline

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--model', default='scenes64', help='run, pipeline folder or shipped name')
p.add_argument('--prompt', default='a large red house in the upper left, by day in clear weather, on grass')
p.add_argument('--times', type=int, default=50); p.add_argument('--bs', type=int, default=64)
p.add_argument('--threads', type=int, help='of torch; all by default'); a = p.parse_args()
if a.threads: torch.set_num_threads(a.threads)
device = default_device(); pipe = TextToImagePipeline.from_pretrained(a.model, device)
print(f'{pipe!r}, {torch.get_num_threads()} threads; auto precision here: {pick_precision(device)}')

def median_ms(f):
    f(); f(); out = []
    for _ in range(a.times): t0 = time.perf_counter(); f(); out.append(1e3*(time.perf_counter() - t0))
    return statistics.median(out)

noise = lambda: torch.Generator().manual_seed(0)
tok = pipe.words.tokenizer([a.prompt]); emb = pipe.words([a.prompt]); z = torch.randn(1, pipe.generator.z, device=emb.device)
with torch.inference_mode():
    parts = {'tokens': median_ms(lambda: pipe.words.tokenizer([a.prompt])), 'embedding': median_ms(lambda: pipe.words.encoder(tok.to(emb.device))),
             'drawing': median_ms(lambda: pipe.generator(emb, z)), 'prompt to PIL picture': median_ms(lambda: pipe(a.prompt, generator=noise()).images[0])}
for k, v in parts.items(): print(f'{k:24} {v:7.2f} ms  {v/parts["drawing"]:5.2f}x')

one = pipe(a.prompt, generator=noise(), output_type='pt').images[0]; among = pipe([a.prompt]*3 + ['a small blue cat'], generator=[noise() for _ in range(4)], output_type='pt').images
print(f'alone and among others: {(one - among[2]).abs().max().item()/2*255:.3f} levels of 255 apart at most')

E, Z = emb.expand(a.bs, -1).contiguous(), torch.randn(a.bs, pipe.generator.z, device=emb.device); kind = emb.device.type; base = None
for name, auto, net in (('fp32', False, pipe.generator), ('fp32 channels_last', False, pipe.generator.to(memory_format=torch.channels_last)), ('bf16 channels_last', True, pipe.generator)):
    with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=auto): ms = median_ms(lambda: net(E, Z))
    base = base or ms; print(f'batch of {a.bs}, {name:20} {ms:7.2f} ms  {1e3*a.bs/ms:7.0f} pictures/s  {base/ms:5.2f}x')

cold = 'import time, torch; t = time.perf_counter(); from promptgan import TextToImagePipeline; TextToImagePipeline.from_pretrained({!r}, "cpu"); print(time.perf_counter() - t)'
took = [float(subprocess.run([sys.executable, '-c', cold.format(a.model)], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
print(f'loaded in a new process, torch imported: {statistics.median(took):.2f} s (of {", ".join(f"{s:.2f}" for s in took)})')
