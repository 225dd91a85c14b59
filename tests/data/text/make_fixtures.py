"""Makes the tokenizers and golden values of this folder; needs tokenizers, sentencepiece, transformers and jinja2.

Everything is trained here on a few lines of text, so the files are small. The golden ids and texts are those of the
Python packages, not of larder.
"""

import io
import json
import pathlib

import sentencepiece
from tokenizers import AddedToken, Tokenizer, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).parent

CORPUS = [
    "The capital of France is Paris. The capital of Germany is Berlin, isn't it? I'm sure they've been there.",
    "def main(argument):\n    for index in range(10):\n        print(index, argument[index])\n    return 0\n",
    "fn main() {\n\tlet total: u64 = values.iter().sum();\n\tprintln!(\"{total}\");\n}\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Le cœur déçu mais l'âme naïve.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ο καιρός είναι καλός σήμερα.",
    "日本語の文章です。今日は天気がいいですね。中文句子也在这里。한국어 문장도 있습니다.",
    "In 1984, 3.14159 and 2,718,281 were numbers; 10000000 is another. 2024-12-31T23:59:59",
    "a  b   c    d     e      f\n\n\nnew paragraph\r\nwindows line\t\ttabs",
    "the and of to in is that it was for on are as with his they at be this from have or by one had not but what",
] * 4

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "a", "A", "é", "😀", "日", "\u0000", "\u200b", "\ufeff",
    "The capital of France is", " The capital of France is", "The capital of France is ", "The  capital   of    France",
    "Hello, world!", "hello", "HELLO WORLD", "I'm you're THEY'VE it's we'll he'd", "don't can't won't", "''''", "'s 't",
    "1", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000.00", "٣٤٥ ४५६", "½ ² Ⅷ",
    "Zwölf Boxkämpfer", "naïve cœur", "e\u0301 vs \u00e9", "Съешь ещё", "Ο καιρός", "日本語の文章", "今日は天気がいい。",
    "中文句子", "한국어 문장", "العربية نص", "עברית", "हिन्दी वाक्य", "ภาษาไทย", "🇩🇪🇫🇷", "👨\u200d👩\u200d👧\u200d👦 family", "👍🏽",
    "a😀b😀c", "def main(argument):\n    return argument[0]\n", "    indented\n\tand tabbed\n", "x = {'a': [1, 2, 3]}; // ok",
    "https://example.com/path?query=1&other=%20#top", "<html><body>&amp;</body></html>", "a\n\n\n\nb", "a \n b", "a\r\nb\rc",
    "trailing spaces   ", "   leading spaces", "\u00a0no-break\u00a0space", "\u3000wide\u3000space", "tab\tseparated\tvalues",
    "!!!???...", "---===+++", "((([[[{{{", "$100 €50 £20 ¥1000", "C++ C# F# .NET", "snake_case camelCase PascalCase",
    "The quick brown fox jumps over the lazy dog", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ababababababababab",
    "\u0301combining first", "mixed العربية and English", "zero\u0000inside", "\U0001f9d1\u200d\U0001f680", "\uffff\ufdd0",
    "▁already ▁▁escaped▁", "<0x0A>", "<0x41>B", "\u2028line\u2029para", "word\u00adhyphen", "ﬁ ligature", "𝒜𝓁𝓅𝒽𝒶",
]

# With the control tokens' texts in them.
CONTROL_TEXTS = [
    "<|turn|>", "<|end|>", "<|turn|>user\nHi<|end|>\n", "a<|end|>b", "a <|end|> b", "<|end|><|end|>", "<|en\u200bd|>",
    "x<|end|", "|end|>", "pre<|turn|>post<|end|>", "<s>", "<s>hello</s>", "hello<s>", "<unk>", "word<|end|>word", "<tool>x",
]


def golden(tokenizer, texts):
    rows = []
    for text in texts:
        row = {"text": text}
        for name, plain in (("plain", True), ("parsed", False)):
            tokenizer.encode_special_tokens = plain
            row[name] = tokenizer.encode(text, add_special_tokens=False).ids
        row["decoded"] = tokenizer.decode(row["parsed"], skip_special_tokens=True)
        row["special"] = tokenizer.encode(text, add_special_tokens=True).ids
        rows.append(row)
    return rows


def write(name, value, indent=None):
    text = json.dumps(value, ensure_ascii=True, indent=indent, separators=None if indent else (",", ":"))
    (HERE / name).write_text(text + "\n")


def byte_level():
    words = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|turn|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(HERE / "byte_level.json"), pretty=False)
    write("byte_level_golden.json", golden(tokenizer, TEXTS + CONTROL_TEXTS))


def sentence_piece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.split("\n")), model_writer=model,
        model_type="bpe", vocab_size=700, character_coverage=0.98, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True, allow_whitespace_only_pieces=True, split_digits=True,
        control_symbols=["<|turn|>", "<|end|>"], minloglevel=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.vocab_size())
    tokens = [processor.id_to_piece(i) for i in ids]
    scores = [processor.get_score(i) for i in ids]
    kinds = [2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
             for i in ids]
    write("spaces_vocabulary.json", {"tokens": tokens, "scores": scores, "kinds": kinds})
    # SentencePiece puts its space before the empty text too; larder gives an empty text no tokens.
    texts = [text for text in TEXTS + CONTROL_TEXTS if text and "\0" not in text]
    rows = [{"text": text, "plain": processor.encode(text), "decoded": processor.decode(processor.encode(text))}
            for text in texts]
    write("spaces_vocabulary_golden.json", rows)
    spaces(tokens, scores, kinds)


def spaces(tokens, scores, kinds):
    """The same vocabulary as a tokenizer.json, merges made from scores as transformers' converters do."""
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score, kind in zip(tokens, scores, kinds):
        if kind == 1:
            pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
            pairs = [pair for pair in pairs if all(part in vocab for part in pair)]
            merges += [(score, -min(vocab[a], vocab[b]), (a, b)) for a, b in pairs]
    merges = [pair for _, _, pair in sorted(merges, key=lambda merge: merge[:2], reverse=True)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)
                                  for token, kind in zip(tokens, kinds) if kind in (2, 3)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    tokenizer.save(str(HERE / "spaces.json"), pretty=False)
    write("spaces_golden.json", golden(tokenizer, TEXTS + CONTROL_TEXTS))


TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the <weather> & \"more\"",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "City 'name' ü"},
        "days": {"type": "integer", "default": 3}, "x": {"type": "number", "default": 1.5}}}}}

CONVERSATIONS = {
    "single": {"messages": [{"role": "user", "content": "Hello <b>there</b> 'x' \"y\""}]},
    "system": {"messages": [
        {"role": "system", "content": "  Be brief. \n"}, {"role": "user", "content": "Hi\n"},
        {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": " And you? 日本"}]},
    "no prompt": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                  "add_generation_prompt": False},
    "tools": {"tools": [TOOL], "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call12345", "type": "function", "function": {
            "name": "get_weather", "arguments": {"city": "Köln", "days": 2, "ok": True, "n": None}}}]},
        {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "{\"t\": 20}"}]},
    "think": {"enable_thinking": False, "messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nans"},
        {"role": "user", "content": "more"}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]},
    "bad": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"},
                         {"role": "narrator", "content": None}]},
}


def chats():
    rows = []
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = _compile_jinja_template(path.read_text())
        for name, conversation in CONVERSATIONS.items():
            variables = {**special, "add_generation_prompt": True, "tools": None, **conversation}
            row = {"template": path.name, "conversation": name, "input": {"tools": None, **conversation}}
            try:
                row["text"] = template.render(**variables)
            except Exception:
                row["text"] = None  # the template refuses this conversation
            rows.append(row)
    write("chat_golden.json", rows)


if __name__ == "__main__":
    byte_level()
    sentence_piece()
    chats()
