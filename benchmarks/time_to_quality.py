"Minutes of training until held-out prompts are drawn right: default and classic networks side by side, one after the other in one run"
import argparse
from pathlib import Path
from promptgan.study import run_study

p = argparse.ArgumentParser(description=__doc__); p.add_argument('--minutes', type=float, nargs='+', default=[10.], help='of training: for all arms, or one number for each')
p.add_argument('--arms', nargs='+', default=['default', 'classic'])
p.add_argument('--seeds', type=int, nargs='+', default=[0]); p.add_argument('--every', type=float, default=30., help='seconds between two exams')
p.add_argument('--levels', type=float, nargs='+', default=[.6, .7, .8, .85, .9, .94]); p.add_argument('--file', type=Path, default=Path('time_to_quality.json')); a = p.parse_args()
budgets = list(zip(a.arms, a.minutes*len(a.arms) if len(a.minutes) == 1 else a.minutes, strict=True)); rows = []
for arm, minutes in budgets:
    rows += [r for r in run_study(a.file, [arm], minutes, a.seeds, every=a.every)
             if r['arm'] == arm and r['seed'] in a.seeds and round(r['minutes']) == round(minutes)]

def reached(row, level): return next((c[0]/60 for c in row['curve'] if c[2] >= level), None)
print(f'{"minutes until attributes right":32}' + ''.join(f'{l:>8}' for l in a.levels) + f'{"at end":>9}{"img/s":>8}{"ratio":>7}'); base = rows[0]['images_per_second']
for r in rows:
    when = (reached(r, l) for l in a.levels)
    print(f'{r["arm"]:24} seed {r["seed"]:2} ' + ''.join(f'{"-" if w is None else f"{w:.1f}":>8}' for w in when) + f'{r["attribute_accuracy"]:>9.3f}{r["images_per_second"]:>8.0f}{r["images_per_second"]/base:>6.2f}x')
last = {r['arm']: r['attribute_accuracy'] for r in rows}
for r in rows[1:]:
    w = reached(rows[0], last[r['arm']]); print(f'{rows[0]["arm"]} passes the last score of {r["arm"]} ({last[r["arm"]]:.3f}) ' + ('not in this time' if w is None else f'after {w:.1f} minutes'))
