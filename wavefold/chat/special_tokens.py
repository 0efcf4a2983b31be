"""DeepSeek-V4's special tokens, by their exact strings (its tokenizer.json). The bars are U+FF5C and the blanks U+2581.

Ids differ from tokenizer to tokenizer, except for BOS and EOS, which config.json fixes. Placeholders and the vision
tokens are left out: nothing here would ever write them.
"""

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"

FIM_HOLE = "<｜fim▁hole｜>"
FIM_BEGIN = "<｜fim▁begin｜>"
FIM_END = "<｜fim▁end｜>"

USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"

BEGIN_OF_REPO_NAME = "<｜begin▁of▁repo▁name｜>"
END_OF_REPO_NAME = "<｜end▁of▁repo▁name｜>"
BEGIN_OF_FILE_NAME = "<｜begin▁of▁file▁name｜>"
END_OF_FILE_NAME = "<｜end▁of▁file▁name｜>"
BEGIN_OF_FILE = "<｜begin▁of▁file｜>"
END_OF_FILE = "<｜end▁of▁file｜>"

THINK = "<think>"
END_THINK = "</think>"
DSML = "｜DSML｜"
"""Part of the tags around tool calls: `<｜DSML｜tool_calls>` is `<`, this token, and text."""

BEGIN_SYS = "<｜begin▁sys｜>"
END_SYS = "<｜end▁sys｜>"
LATEST_REMINDER = "<｜latest_reminder｜>"

ACTION = "<｜action｜>"
QUERY = "<｜query｜>"
AUTHORITY = "<｜authority｜>"
DOMAIN = "<｜domain｜>"
TASK = "<｜task｜>"
TITLE = "<｜title｜>"
EXTRACTED_URL = "<｜extracted_url｜>"
READ_URL = "<｜read_url｜>"
END_OF_QUERY = "<｜end_of_query｜>"

SPECIAL_TOKENS = (
    BOS, EOS, PAD, FIM_HOLE, FIM_BEGIN, FIM_END, USER, ASSISTANT,
    BEGIN_OF_REPO_NAME, END_OF_REPO_NAME, BEGIN_OF_FILE_NAME, END_OF_FILE_NAME, BEGIN_OF_FILE, END_OF_FILE,
    THINK, END_THINK, DSML, BEGIN_SYS, END_SYS, LATEST_REMINDER,
    ACTION, QUERY, AUTHORITY, DOMAIN, TASK, TITLE, EXTRACTED_URL, READ_URL, END_OF_QUERY,
)  # fmt: skip
"""All of them in the official order: their ids, 0 upwards, in the tokenizers made here."""
