#!/usr/bin/env bash
# deepseek-recipe 0.2.0, tool calls of DeepSeek-V4. The library writes a call of an earlier turn into the prompt, and
# reads a call that a model wrote. One would assume that it reads what it writes. A parameter's name stands between
# quotes in a tag, and is neither escaped when written nor when read: the reader ends it at a blank, without a closing
# quote in the JSON that it answers, and hands on a quote, a backslash or a tab as it is. "of all" comes back as
# {"of: 1}, on which json.loads raises; a backslash may also make another name, without an error. The same characters
# in a value are escaped, and come back equal. A JSON schema may name a property so, and nothing refuses such a tool.
# Whoever serves tools should refuse these names, or rename them before the prompt and back after it; whoever reads
# arguments should expect text that is no JSON after a call that a model wrote without a fault.
#
# Seen (Python 3.11, Linux x86-64):
#   deepseek-recipe 0.2.0
#   arguments                        come back as
#   {"x": "of all \" \\ \t"}         {"x": "of all \" \\ \t"}    equal
#   {"of/all-ä": 1}                  {"of/all-ä": 1}             equal
#   {"of all": 1}                    {"of: 1}                    no JSON
#   {"say \"a\"": "b"}               {"say: "b"}                 no JSON
#   {"a\"b": 1}                      {"a"b": 1}                  no JSON
#   {"a\tb": 1}                      {"a	b": 1}                  no JSON
#   {"C:\\dir": 1}                   {"C:\dir": 1}               no JSON
#   {"C:\\temp": 1}                  {"C:\temp": 1}              not equal
#   as stated: names with blanks, quotes, backslashes or tabs do not come back from the library's own writing
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet deepseek-recipe==0.2.0 tokenizers==0.23.3

cat > "$work/look.py" <<'PY'
import importlib.metadata
import json

import deepseek_recipe as recipe
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END = "<｜end▁of▁sentence｜>"
MARKERS = ["<｜begin▁of▁sentence｜>", END, "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"]

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
spelled = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
spelled.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
spelled.decoder = decoders.ByteLevel()
spelled.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
spelled.save("tokenizer.json")
tokenizer = recipe.Tokenizer.from_file("tokenizer.json")
print(f"deepseek-recipe {importlib.metadata.version('deepseek-recipe')}")


def written(arguments):
    """The tokens of an assistant's turn that calls f, as the library puts them into a prompt."""
    turns = [recipe.UserMessage("U"), recipe.AssistantMessage("", tool_calls=[recipe.ToolCall("1", "f", arguments)])]
    encoding = recipe.DeepseekV4Encoding().with_tokenizer(tokenizer)
    before, tokens = (encoding.encode(recipe.Conversation(part, thinking_mode=False)) for part in (turns[:1], turns))
    assert tokens[: len(before)] == before
    answer = tokens[len(before) :]
    return answer[: answer.index(spelled.token_to_id(END))]


def read(tokens):
    """The arguments of the one call in these tokens, as the library answers a client."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"model": "DeepSeek-V4-Pro", "messages": [{"role": "user", "content": "U"}], "tools": tools}
    asked = recipe.ChatCompletionRequest(body).convert(recipe.ConversionOptions(default_thinking_mode=False))
    generator = recipe.ChatCompletionRequest.chunk_generator(asked, "id", "m")
    processor = recipe.StreamProcessor(generator, asked.parsing_options, tokenizer)
    answer = recipe.ChatCompletionResponse("id", "m", 0, 1, 0)
    chunks = [recipe.InferenceChunk.ready(), *(recipe.InferenceChunk.tokens([token]) for token in tokens)]
    for chunk in [*chunks, recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop)]:
        for part in processor.push(chunk):
            answer.accumulate(part)
    (call,) = json.loads(answer.to_json())["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "f"
    return call["function"]["arguments"]


def judged(given, back):
    try:
        return "equal" if json.loads(back) == given else "not equal"
    except json.JSONDecodeError:
        return "no JSON"


cases = [
    ({"x": 'of all " \\ \t'}, "equal"), ({"of/all-ä": 1}, "equal"), ({"of all": 1}, "no JSON"),
    ({'say "a"': "b"}, "no JSON"), ({'a"b': 1}, "no JSON"), ({"a\tb": 1}, "no JSON"), ({"C:\\dir": 1}, "no JSON"),
    ({"C:\\temp": 1}, "not equal"),
]  # fmt: skip
print(f"{'arguments':32} come back as")
for given, expected in cases:
    text = json.dumps(given, ensure_ascii=False)
    back = read(written(text))
    print(f"{text:32} {back:27} {judged(given, back)}")
    assert judged(given, back) == expected
print("as stated: names with blanks, quotes, backslashes or tabs do not come back from the library's own writing")
PY
cd "$work"
venv/bin/python look.py || { echo 'changed: see the lines above'; exit 1; }
