"""Answers that must look as the request says."""

import json

from test_answers import chat

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "old": {"type": "boolean"}},
    "required": ["city", "old"],
    "additionalProperties": False,
}


def test_a_json_schema_answer_parses(smollm2):
    question = [{"role": "user", "content": "Which city is the capital of France? Answer in JSON."}]
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    options = {"messages": question, "max_tokens": 100, "logit_bias": {}}
    choice = chat(smollm2, response_format=schema, **options).choices[0]
    value = json.loads(choice.message.content)
    assert set(value) == {"city", "old"} and isinstance(value["old"], bool)
    assert choice.finish_reason == "stop"
