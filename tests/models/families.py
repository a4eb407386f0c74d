"""The families of the catalogue: configs that train an architecture from scratch on the embedded text in minutes, each
with the metric of its main objective's targets."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = {
    "gpt2.py:debug": "loss", "decoder.py:debug": "loss", "decoder.py:debug-mistral": "loss",
    "decoder.py:debug-qwen2": "loss", "decoder.py:debug-qwen3": "loss", "decoder.py:debug-gemma": "loss",
    "decoder.py:debug-gemma2": "loss", "decoder.py:debug-gemma3": "loss", "decoder.py:debug-mixtral": "loss",
    "decoder.py:debug-qwen3-moe": "loss",
    "bert.py:debug": "masked_lm_loss", "bert.py:debug-roberta": "loss", "bert.py:debug-distilbert": "loss",
    "electra.py:debug": "generator_loss", "ernie.py:debug": "masked_lm_loss",
    "ernie_knowledge.py:debug": "masked_lm_loss",
    "deberta.py:debug": "loss", "deberta.py:debug-v3": "generator_loss",
    "t5.py:debug": "loss", "t5.py:debug-v1.1": "loss", "t5.py:debug-ul2": "loss",
    "xlnet.py:debug": "loss", "xlnet.py:debug-mems": "loss",
    "lstm.py:debug": "loss", "lstm.py:debug-gru": "loss", "char_word_lm.py:debug": "loss", "char_cnn.py:debug": "loss",
}
