"""What the server answers."""

from concurrent.futures import ThreadPoolExecutor

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
# The tiny model's end of text, which keeps its answers from being as long as asked for.
ENDLESS = {"2": -100}


def chat(server, **options):
    given = {"messages": QUESTION, "max_tokens": 20, "temperature": 0, "logit_bias": ENDLESS}
    return server.client.chat.completions.create(model=server.name, **(given | options))


def streamed(chunks, n=1):
    """Text and reason of each answer of a stream, and the usage at its end."""
    texts, reasons, usage = [""] * n, [None] * n, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    return texts, reasons, usage


def test_plain_chat(server):
    answer = chat(server)
    (choice,) = answer.choices
    assert answer.object == "chat.completion" and answer.model == server.name
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 20 and answer.usage.prompt_tokens > 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20
    assert answer.usage.prompt_tokens_details.cached_tokens < answer.usage.prompt_tokens


def test_streamed_chat_is_the_same(server):
    plain = chat(server)
    chunks = list(chat(server, stream=True, stream_options={"include_usage": True}))
    texts, reasons, usage = streamed(chunks)
    assert texts == [plain.choices[0].message.content] and reasons == ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert usage.total_tokens == plain.usage.total_tokens
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == [] and len({chunk.id for chunk in chunks}) == 1


def test_parts_of_content_are_joined(server):
    parts = [{"type": "text", "text": "W"}, {"type": "text", "text": "hy?"}]
    messages = [QUESTION[0], {"role": "user", "content": parts}]
    assert (
        chat(server, messages=messages).choices[0].message.content
        == chat(server).choices[0].message.content
    )


def test_sixteen_at_once(server):
    def ask(number):
        messages = [{"role": "user", "content": f"Question {number % 8}" + "?" * number}]
        return chat(server, messages=messages, max_tokens=10 + number).choices[0].message.content

    alone = [ask(number) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == alone
    server.wait_until_idle()


def test_a_cancelled_stream_frees_its_slots(server):
    steps = server.metric("steps_total")
    for _ in range(10):
        stream = chat(server, stream=True, max_tokens=400)
        next(iter(stream))
        stream.close()
    server.wait_until_idle()
    assert server.metric("steps_total") - steps < 10 * 390
    assert chat(server).choices[0].message.content


def test_several_answers(server):
    options = {"n": 3, "temperature": 1, "seed": 5}
    answer = chat(server, **options)
    contents = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(contents)) == 3
    assert answer.usage.completion_tokens == 60
    texts, _, _ = streamed(chat(server, stream=True, **options), 3)
    assert texts == contents


def test_a_known_beginning_is_cached(server):
    messages = [{"role": "user", "content": "A question that nobody asks twice, or does he?"}]
    first, second = (chat(server, messages=messages) for _ in range(2))
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached == second.usage.prompt_tokens - 1
    assert first.usage.prompt_tokens_details.cached_tokens < cached
    assert first.choices[0].message.content == second.choices[0].message.content


def test_seeds(server):
    one, same, other = (
        chat(server, temperature=1.5, seed=seed).choices[0].message.content for seed in [1, 1, 2]
    )
    assert one == same != other


def test_stop(server):
    text = chat(server).choices[0].message.content
    stop = text[8:10]
    choice = chat(server, stop=[stop, "never"]).choices[0]
    assert choice.message.content == text[: text.index(stop)] and choice.finish_reason == "stop"
    assert chat(server, stop=stop).choices[0].message.content == choice.message.content


def test_chat_logprobs(server):
    choice = chat(server, logprobs=True, top_logprobs=4).choices[0]
    tokens = choice.logprobs.content
    assert len(tokens) == 20
    text = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert text == choice.message.content
    for token in tokens:
        top = [other.logprob for other in token.top_logprobs]
        assert len(top) == 4 and top == sorted(top, reverse=True)
        assert token.logprob <= top[0] <= 0
    chunks = chat(server, logprobs=True, top_logprobs=4, stream=True)
    pieces = [c.choices[0].logprobs.content for c in chunks if c.choices[0].logprobs]
    assert sum(pieces, []) == tokens


def test_completions(server):
    def complete(**options):
        given = {"max_tokens": 12, "temperature": 0, "logit_bias": ENDLESS}
        return server.client.completions.create(model=server.name, **(given | options))

    answer = complete(prompt="Once upon", logprobs=2)
    (choice,) = answer.choices
    assert answer.object == "text_completion" and choice.finish_reason == "length"
    assert len(choice.logprobs.tokens) == 12 == len(choice.logprobs.top_logprobs)
    assert choice.logprobs.text_offset[:2] == [0, len(choice.logprobs.tokens[0])]
    assert complete(prompt=["Once upon"]).choices[0].text == choice.text
    assert "".join(c.choices[0].text for c in complete(prompt="Once upon", stream=True)) == choice.text
    tokens = complete(prompt=[17, 18, 19])
    assert tokens.usage.prompt_tokens == 3
    assert complete(prompt=[[17, 18, 19]]).choices[0].text == tokens.choices[0].text


def test_a_real_model_answers(smollm2):
    question = [{"role": "user", "content": "What is the capital of France, and what is it known for?"}]
    answer = chat(smollm2, messages=question, max_tokens=40, logit_bias={})
    assert "Paris" in answer.choices[0].message.content
    chunks = chat(smollm2, messages=question, max_tokens=40, logit_bias={}, stream=True)
    assert streamed(chunks)[0] == [answer.choices[0].message.content]
