"""The loss alone, forward and backward: fused from hidden states against plain on whole logits.

Both sides get the student's and the mentor's hidden states and heads and give the gradients of the student's. Memory is
the peak over what these inputs take, gradients included, each side in a fresh process.

With `--closed-forms`: seconds of the fused side for every divergence, with the gradient that autograd derives and, in turn,
with the one that is written out in `CLOSED_FORMS` where there is one; processor time, the best of the repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import arguments, hardware, in_fresh_process, in_turn, peak_extra_bytes, report, versions

from mentorkd.distillation import fused_losses
from mentorkd.distillation.fused_losses import fused_distillation_loss
from mentorkd.distillation.losses import DIVERGENCES, LossSums, MentorHidden, distillation_loss

PLAIN, FUSED = "plain", "fused"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, help="target tokens (default 4096; short 512)")
    parser.add_argument("--vocab", type=int, default=32_128, help="entries of both heads (default 32128, T5's)")
    parser.add_argument("--width", type=int, default=512, help="width of the student (default 512, FlanT5-small's)")
    parser.add_argument("--mentor-width", type=int, default=1024, help="width of the mentor (default 1024)")
    parser.add_argument("--divergence", default="forward_kl")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--chunk", type=int, help="tokens of a chunk of the fused side; its own choice if not given")
    parser.add_argument("--peak-of", choices=[PLAIN, FUSED], help=argparse.SUPPRESS)
    parser.add_argument(
        "--closed-forms", action="store_true", help="seconds of every divergence, with and without closed form"
    )
    options = parser.parse_args()
    options.tokens = options.tokens or (512 if options.short else 4096)
    if options.short:
        options.repeats = min(options.repeats, 3)
    if options.threads:
        torch.set_num_threads(options.threads)

    if options.peak_of:
        sides = both_sides(options)
        both_sides(options, tokens=8)[options.peak_of]()  # libraries load and set up what they keep
        print(peak_extra_bytes(sides[options.peak_of]))
        return
    if options.closed_forms:
        compare_closed_forms(options)
        return
    peaks = {side: peak_in_fresh_process(side, options) for side in (PLAIN, FUSED)}
    seconds = in_turn(both_sides(options), options.repeats)
    settings = {key: getattr(options, key) for key in SETTINGS}
    report(
        "loss_memory",
        seconds,
        reference=PLAIN,
        ours=FUSED,
        peak_bytes=peaks,
        as_json=options.json,
        settings=settings,
    )


SETTINGS = ("tokens", "vocab", "width", "mentor_width", "divergence", "temperature", "dtype", "device", "chunk")


def compare_closed_forms(options: argparse.Namespace) -> None:
    closed_forms = dict(fused_losses.CLOSED_FORMS)
    print(", ".join(f"{key} {value}" for key, value in {**hardware(), **versions()}.items()))
    print(f"{options.tokens} tokens, vocabulary {options.vocab}, widths {options.width} and {options.mentor_width}")
    for options.divergence in DIVERGENCES:
        run = both_sides(options)[FUSED]
        seconds: dict[str, list[float]] = {"autograd": []}
        if options.divergence in closed_forms:
            seconds["closed form"] = []
        for _ in range(options.repeats):
            for side, times in seconds.items():
                fused_losses.CLOSED_FORMS = closed_forms if side == "closed form" else {}
                start = time.process_time()
                run()
                times.append(time.process_time() - start)
        print(
            f"{options.divergence:<12}", *(f"{side} {min(times):.2f} s" for side, times in seconds.items()), flush=True
        )


def peak_in_fresh_process(side: str, options: argparse.Namespace) -> int:
    given = {key: getattr(options, key) for key in (*SETTINGS, "threads")}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if value is not None]
    return int(in_fresh_process(__file__, [f"--peak-of={side}", *flags]))


def both_sides(options: argparse.Namespace, tokens: int | None = None) -> dict[str, Callable[[], None]]:
    generator = torch.Generator(options.device).manual_seed(0)
    like = {"generator": generator, "device": options.device, "dtype": getattr(torch, options.dtype)}
    count, vocab, width, mentor_width = tokens or options.tokens, options.vocab, options.width, options.mentor_width
    hidden = torch.randn(count, width, **like).requires_grad_()
    weight = torch.randn(vocab, width, **like).div_(width**0.5).requires_grad_()
    labels = torch.randint(vocab, (count,), generator=generator, device=options.device)
    mentor = MentorHidden(
        torch.randn(count, mentor_width, **like), torch.randn(vocab, mentor_width, **like).div_(mentor_width**0.5)
    )
    how = {"kd_weight": 0.3, "temperature": options.temperature, "divergence": options.divergence}

    def plain() -> LossSums:
        return distillation_loss(F.linear(hidden, weight), labels, mentor, **how)

    def fused() -> LossSums:
        return fused_distillation_loss(hidden, weight, labels, mentor, chunk_tokens=options.chunk, **how)

    def step(loss: Callable[[], LossSums]) -> None:
        hidden.grad = weight.grad = None
        sums = loss()
        (sums.loss / sums.tokens).backward()  # type: ignore[no-untyped-call]

    return {PLAIN: lambda: step(plain), FUSED: lambda: step(fused)}


if __name__ == "__main__":
    main()
