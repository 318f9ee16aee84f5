"""Finished trainings of earlier versions whose weights may be wrong."""

from __future__ import annotations

import json
from pathlib import Path

from mentorkd.errors import DamagedError
from mentorkd.pipeline.records import TrainRecord

_TYPES = """
afmoe aria_text audioflamingo3 axk1 axk2 bailing_hybrid beam cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
dots1 dots3_note dots3_note_text ernie4_5_moe exaone_moe flex_olmo flint fuyu gemma3 gemma3n gemma3n_text gemma4_unified
glm4_moe glm4_moe_lite glm_moe_dsa glmasr got_ocr2 gpt_neox granite_speech granite_speech_plus granitemoe granitemoehybrid
granitemoeshared hrm_text hunyuan_v1_moe hy_v3 hy_v4 inkling2_text jamba kimi_linear kolibri1 laguna lfm2_moe lfm3
longcat_flash mellum mimo_v2_flash minimax minimax_m2 mixtral musicflamingo nemo_speechlm nemotron_h olmo_hybrid olmoe phimoe
qwen2_audio qwen2_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen4_exp qwen4_exp_text solar_open t5gemma2
vibevoice_asr voxtral voxtral_realtime
"""
CONVERTED = frozenset(_TYPES.split())
"""Model types that transformers 5.0 to 5.23 save under other names than the model's own. Checkpoints of other types were exact.

The list is of the past: it says what earlier versions of this package did, and later versions of transformers add nothing to it.
"""

_GUESSED_MASKS = frozenset({"t5gemma"})
"""Model types whose decoder guessed its mask from ids, since earlier versions gave it none. It saw padding and later targets."""


def why_outdated(record: TrainRecord, root: Path) -> str | None:
    """Why a finished training has weights that this version would not make, in a few words; None if it has not.

    It restored its best epoch, or resumed, from a checkpoint that it could not read exactly, or its decoder had a wrong mask.
    `root` is the run folder. The published model tells its type, so no hub is asked. Raises DamagedError for a config that
    cannot be read.
    """
    if record.checkpoint_format is not None:
        return None
    model = root / record.target / "model"
    if not (model / "config.json").is_file():
        return None
    try:
        model_type = json.loads((model / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        how = f"remove the folder {model} and `mentorkd run` makes it again"
        raise DamagedError(f"{model / 'config.json'} is damaged (no JSON object); {how}") from None
    if model_type in CONVERTED:
        return "an earlier version restored other weights"
    return "an earlier version trained it with a wrong decoder mask" if model_type in _GUESSED_MASKS else None
