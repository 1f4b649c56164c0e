"From a prompt to a picture: milliseconds of each part, pictures per second of batches, seconds to load, all in one run"
import argparse, os, statistics, subprocess, sys, time
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

# in new processes, since glibc either gives large blocks back after each batch, and the next one pays for every page again, or is told to keep them
batches = """
import copy, statistics, time, torch
from promptgan.core import default_device
from promptgan.pipeline import TextToImagePipeline
{threads}
net = TextToImagePipeline.from_pretrained({model!r}, default_device()).generator.eval(); d = next(net.parameters()).device; base = None
E, Z = torch.randn({bs}, net.config['e'], device=d), torch.randn({bs}, net.z, device=d)
for name, dtype, layout in (('fp32', torch.float32, torch.contiguous_format), ('fp32 channels_last', torch.float32, torch.channels_last), ('bf16 channels_last', torch.bfloat16, torch.channels_last)):
    n, e, z, ms = copy.deepcopy(net).to(dtype=dtype, memory_format=layout), E.to(dtype), Z.to(dtype), []
    with torch.inference_mode():
        for _ in range({times} + 2): t0 = time.perf_counter(); float(n(e, z)[-1, 0, 0, 0]); ms.append(1e3*(time.perf_counter() - t0))
    ms = statistics.median(ms[2:]); base = base or ms; print(f'  {{name:24}} {{ms:7.2f}} ms  {{1e3*{bs}/ms:7.0f}} pictures/s  {{base/ms:5.2f}}x')
"""
code = batches.format(model=a.model, bs=a.bs, times=a.times, threads=f'torch.set_num_threads({a.threads})' if a.threads else '')
keep = dict(MALLOC_TRIM_THRESHOLD_='2000000000', MALLOC_MMAP_THRESHOLD_='1000000000', MALLOC_TOP_PAD_='300000000')
for how, env in (('memory as the system has it', {}), (' '.join(f'{k}={v}' for k, v in keep.items()), keep)):
    print(f'batches of {a.bs}, generator alone, {how}:'); print(subprocess.run([sys.executable, '-c', code], env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout, end='')

cold = 'import time, torch; t = time.perf_counter(); from promptgan import TextToImagePipeline; TextToImagePipeline.from_pretrained({!r}, "cpu"); print(time.perf_counter() - t)'
took = [float(subprocess.run([sys.executable, '-c', cold.format(a.model)], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
print(f'loaded in a new process, torch imported: {statistics.median(took):.2f} s (of {", ".join(f"{s:.2f}" for s in took)})')
