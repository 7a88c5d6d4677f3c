"""The scripted agent creates the files that a prompt asks for, with whatever tools are offered."""

import json
import subprocess

import pytest
from demo_harness import chat_body, messages_body, post, serve

from server.upstream.demo.agent import Tool, ToolResult, has_failed, next_step, spoken
from server.upstream.demo.schema import example
from server.upstream.demo.task import File, files_in

UNSAID = "Created by the demo upstream.\n"
STRING = {"type": "string"}
ABSOLUTE = {"type": "string", "description": "An absolute path"}


def tool(name, required, **properties):
    return Tool(name, {"type": "object", "properties": properties, "required": required})


BASH = tool("Bash", ["command"], command=STRING, description=STRING)
WRITE = tool("Write", ["file_path", "content"], file_path=ABSOLUTE, content=STRING)
EDIT = tool(
    "Edit", ["file_path", "old_string"], file_path=ABSOLUTE, old_string=STRING, content=STRING
)
READ = tool("Read", ["file_path"], file_path=ABSOLUTE)
ITEMS = {"type": "object", "properties": {"path": ABSOLUTE}, "required": ["path"]}
READ_FILES = tool("read_files", ["files"], files={"type": "array", "items": ITEMS})
RUN = tool("run_commands", ["commands"], commands={"type": "array", "items": STRING})
EDITOR = tool("editor", ["path", "new_text"], path=ABSOLUTE, old_text=STRING, new_text=STRING)
ROO_LIST = tool("list_files", ["path", "recursive"], path=STRING, recursive={"type": "boolean"})
ROO_WRITE = tool("write_to_file", ["path", "content"], path=STRING, content=STRING)
DONE = tool("attempt_completion", ["result"], result=STRING)
EXEC = tool("exec_command", ["cmd"], cmd=STRING, justification=STRING, workdir=STRING)
PATCH = tool("apply_patch", ["input"], input=STRING)
TEXT_EDITOR = tool(
    "str_replace_based_edit_tool",
    ["command", "path"],
    command={"type": "string", "enum": ["view", "create"]},
    path=STRING,
    file_text=STRING,
)
OK, BAD = ToolResult("ok", failed=False), ToolResult("no", failed=True)
ASKED = "create a file hello.txt containing hi"


def play(tools, outcomes=(), *, asked=ASKED, context="Working directory: /home/dev/x\n"):
    """Run the agent until it stops calling tools; give its calls and its last words."""
    results, calls = [], []
    while True:
        step = next_step(asked, results, tools, context, "hello")
        if step.tool is None:
            return calls, step.say
        calls.append((step.tool.name, step.arguments))
        results.append(outcomes[len(results)] if len(results) < len(outcomes) else OK)


@pytest.mark.parametrize(
    ("asked", "files"),
    [
        (ASKED, [("hello.txt", "hi")]),
        (
            'Create a file called hello.txt with the content "hi there".',
            [("hello.txt", "hi there")],
        ),
        ("Write 'hi' to hello.txt", [("hello.txt", "hi")]),
        ("write hello world into notes/a.md, then read it back", [("notes/a.md", "hello world")]),
        ('make a file named `x.json` that contains exactly: {"a": 1}', [("x.json", '{"a": 1}')]),
        (
            "Create a.txt with the text hello world and then read it back.",
            [("a.txt", "hello world")],
        ),
        ("create a.txt containing 1 and b.txt containing 2", [("a.txt", "1"), ("b.txt", "2")]),
        (
            "Create a.txt containing 1. Then create b.txt with two.",
            [("a.txt", "1"), ("b.txt", "two")],
        ),
        ("Create a file named README with:\n```\n# Hi\nyou\n```", [("README", "# Hi\nyou\n")]),
        ('save "x y" in a file called out.log', [("out.log", "x y")]),
        ("Create files a.txt and b.txt", [("a.txt", UNSAID), ("b.txt", UNSAID)]),
        ("Create hello.txt that says hi. Verify it.", [("hello.txt", "hi")]),
        ("create a new file please", [("demo.txt", UNSAID)]),
        ("what is in foo.txt?", []),
        ("what is 3.14 times 2?", []),
        ("", []),
    ],
)
def test_it_understands_what_to_create(asked, files):
    assert files_in(asked) == [File(*each) for each in files]


def test_it_looks_writes_reads_back_and_reports():
    calls, said = play([BASH, EDIT, WRITE, READ])

    assert calls == [
        ("Bash", {"command": "ls", "description": "List the folder"}),
        ("Write", {"file_path": "/home/dev/x/hello.txt", "content": "hi"}),
        ("Read", {"file_path": "/home/dev/x/hello.txt"}),
    ]
    assert said == "Done: hello.txt created."


def test_it_fills_lists_of_commands_and_of_files():
    calls, _ = play([READ_FILES, RUN, EDITOR])

    assert calls == [
        ("run_commands", {"commands": ["ls"]}),
        ("editor", {"path": "/home/dev/x/hello.txt", "new_text": "hi"}),
        ("read_files", {"files": [{"path": "/home/dev/x/hello.txt"}]}),
    ]


def test_it_keeps_relative_paths_where_tools_want_them_and_ends_with_the_completion_tool():
    context = "Current Workspace Directory (/home/u/proj) Files\n"

    calls, said = play([ROO_LIST, ROO_WRITE, DONE], context=context)

    assert [name for name, _ in calls] == ["list_files", "write_to_file", "attempt_completion"]
    assert calls[0][1] == {"path": "/home/u/proj", "recursive": True}
    assert calls[1][1] == {"path": "hello.txt", "content": "hi"}
    assert said == calls[2][1]["result"]


def test_a_plain_question_ends_with_the_completion_tool_too():
    calls, said = play([ROO_WRITE, DONE], asked="how are you?")

    assert (calls, said) == ([("attempt_completion", {"result": "hello"})], "hello")


def test_a_shell_alone_is_enough(tmp_path):
    calls, _ = play([BASH], asked="create a file src/a.txt containing it's %s $HOME `x`")

    commands = [arguments["command"] for _, arguments in calls]
    ran = [subprocess.check_output(["sh", "-c", each], cwd=tmp_path) for each in commands]
    assert (tmp_path / "src/a.txt").read_text() == "it's %s $HOME `x`"
    assert ran[-1] == b"it's %s $HOME `x`"


def test_whole_lines_are_added_with_a_patch_and_all_else_in_the_shell():
    """codex offers these two, and its patches cannot leave out the last line break."""
    asked = 'Create a.txt with:\n```\none\n+two\n```\nand b.txt containing "b"'

    calls, said = play([PATCH, EXEC], asked=asked)

    patch = "*** Begin Patch\n*** Add File: a.txt\n+one\n++two\n*** End Patch\n"
    assert calls == [
        ("exec_command", {"cmd": "ls"}),
        ("apply_patch", {"input": patch}),
        ("exec_command", {"cmd": "printf '%s' b > b.txt"}),
        ("exec_command", {"cmd": "cat a.txt"}),
        ("exec_command", {"cmd": "cat b.txt"}),
    ]
    assert said == "Done: a.txt, b.txt created."


def test_a_patch_alone_is_enough():
    calls, _ = play([PATCH])

    patch = "*** Begin Patch\n*** Add File: hello.txt\n+hi\n*** End Patch\n"
    assert calls == [("apply_patch", {"input": patch})]


def test_a_failed_patch_is_tried_again_in_the_shell():
    calls, _ = play([PATCH, EXEC], [OK, BAD], asked="create a file a.txt")

    assert [name for name, _ in calls[1:3]] == ["apply_patch", "exec_command"]
    assert calls[2][1]["cmd"] == f"printf '%s' '{UNSAID}' > a.txt"


@pytest.mark.parametrize(("code", "failed"), [("0", False), ("1", True), ("127", True)])
def test_it_sees_from_the_exit_code_whether_a_command_failed(code, failed):
    told = f"Chunk ID: 1a\nWall time: 0.0 seconds\nProcess exited with code {code}\nOutput:\nx"

    assert has_failed(told) is failed


def test_an_editor_with_a_command_is_told_to_create():
    calls, _ = play([TEXT_EDITOR])

    assert calls == [
        (
            "str_replace_based_edit_tool",
            {"command": "create", "path": "hello.txt", "file_text": "hi"},
        )
    ]


def test_a_failed_write_is_tried_again_in_the_shell():
    calls, said = play([BASH, WRITE, READ], [BAD, BAD])

    assert [name for name, _ in calls] == ["Bash", "Write", "Bash", "Read"]
    assert calls[2][1]["command"] == "printf '%s' hi > hello.txt"
    assert said == "Done: hello.txt created."


def test_it_gives_up_with_the_tool_s_own_words():
    _, said = play([BASH, WRITE], [BAD] * 8)

    assert said == "I could not create hello.txt: no"


def test_it_never_calls_more_than_eight_tools():
    asked = "create a.txt with 1 and b.txt with 2 and c.txt with 3"

    calls, said = play([BASH, WRITE], [BAD, BAD, OK, BAD, OK, BAD, OK, BAD], asked=asked)

    assert len(calls) <= 8
    assert said


def test_it_does_nothing_where_no_tool_can_write():
    assert play([READ]) == ([], "hello")


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        ("<system-reminder>\nbe kind\n</system-reminder>\nhello", "hello"),
        ("<task>\nhello\n</task>\n<environment_details>x</environment_details>", "hello"),
        ('"say \\"hi\\" to a.txt"', 'say "hi" to a.txt'),
        ('"hi" and "ho"', '"hi" and "ho"'),
        ("<system-reminder>only this</system-reminder>", ""),
    ],
)
def test_it_hears_the_person_and_not_the_client(sent, heard):
    assert spoken(sent) == heard


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": STRING, "minItems": 2}, ["demo", "demo"]),
        ({"anyOf": [{"type": "integer", "minimum": 5}, {"type": "null"}]}, 5),
        ({"$defs": {"a": {"const": 3}}, "$ref": "#/$defs/a"}, 3),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "number", "maximum": 0}, 0),
        ({"type": "string", "minLength": 6, "maxLength": 6}, "demo.."),
        ({"properties": {"a": STRING, "b": STRING}, "required": ["b"]}, {"b": "demo"}),
        ({"type": "null"}, None),
    ],
)
def test_an_example_fits_its_schema(schema, value):
    assert example(schema) == value


def test_a_recursive_schema_comes_to_an_end():
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}

    assert "next" in example(node)


def test_a_whole_conversation_over_messages():
    """Turn by turn, as a client would: the agent keeps nothing, the history tells it all."""
    tools = [{"name": each.name, "input_schema": each.schema} for each in (BASH, WRITE, READ)]
    messages = [{"role": "user", "content": [{"type": "text", "text": ASKED}]}]

    async def scenario(server):
        called = []
        while True:
            body = messages_body(system="Working directory: /w", messages=messages, tools=tools)
            answer = (await post(server, "/v1/messages", body)).json()
            messages.append({"role": "assistant", "content": answer["content"]})
            calls = [block for block in answer["content"] if block["type"] == "tool_use"]
            if answer["stop_reason"] != "tool_use":
                assert not calls
                return called
            called += [call["name"] for call in calls]
            results = [
                {"type": "tool_result", "tool_use_id": call["id"], "content": "fine"}
                for call in calls
            ]
            reminder = {"type": "text", "text": "<system-reminder>x</system-reminder>"}
            messages.append({"role": "user", "content": [*results, reminder]})

    assert serve(scenario) == ["Bash", "Write", "Read"]


def test_a_whole_conversation_over_chat_completions():
    functions = [{"name": each.name, "parameters": each.schema} for each in (WRITE, READ)]
    tools = [{"type": "function", "function": each} for each in functions]
    messages = [{"role": "system", "content": "cwd: /w"}, {"role": "user", "content": ASKED}]

    async def scenario(server):
        called = []
        while True:
            body = chat_body(messages=messages, tools=tools)
            choice = (await post(server, "/v1/chat/completions", body)).json()["choices"][0]
            messages.append(choice["message"])
            if choice["finish_reason"] != "tool_calls":
                return called
            for call in choice["message"]["tool_calls"]:
                called.append(json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": "fine"})

    path = {"file_path": "/w/hello.txt"}
    assert serve(scenario) == [{**path, "content": "hi"}, path]
