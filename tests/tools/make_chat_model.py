"""Makes tests/data/chat: a llama of random weights with a byte-level tokenizer and a ChatML template.

Run with torch, transformers and tokenizers installed:  python tests/tools/make_chat_model.py
"""

import json
import pathlib

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = pathlib.Path(__file__).parent.parent / "data" / "chat"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["t h", "th e", "Ġ the", "i n", "a n", "e r", "r e", "o n", "u s", "l l"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tokenizer() -> Tokenizer:
    tokens = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [merge.replace(" ", "") for merge in MERGES]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return made


def write_json(name: str, value: dict) -> None:
    (FOLDER / name).write_text(json.dumps(value, indent=1) + "\n")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.save(str(FOLDER / "tokenizer.json"))
    write_json("tokenizer_config.json", {
        "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "add_bos_token": False,
        "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast",
    })
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=made.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=True, dtype="bfloat16", initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [2]
    model.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
