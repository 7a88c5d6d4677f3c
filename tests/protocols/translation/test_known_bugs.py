"""Each bug that gateways are known to have had between the protocols, and what keeps it out here.

From Chat to a Messages client
    a tool call as the first chunk
        test_a_first_chunk_with_a_tool_call_comes_behind_message_start
    stop for an answer with calls
        test_tool_calls_decide_over_stop_but_not_over_a_limit
    a text block that is empty
        test_empty_text_never_opens_a_block
    blank text ahead of a call
        test_space_ahead_of_a_tool_is_not_put_ahead_of_a_later_text
    the first arguments behind a text
        test_text_then_a_tool_keeps_the_first_arguments
    a text and a call in one chunk
        test_text_and_a_whole_call_in_one_chunk_are_both_kept
    calls whose fragments are mixed
        test_parallel_calls_that_interleave_come_out_one_after_the_other
    calls that all have the index 0
        test_ollama_calls_are_three_though_all_have_index_0
    a name that comes late
        test_a_name_that_comes_late_is_waited_for
    an id that comes late
        test_an_id_that_comes_behind_the_name_is_taken
    ids that repeat
        test_missing_and_repeated_ids_become_unique_ones
    arguments of nothing
        test_no_arguments_are_an_empty_object_that_is_streamed
    arguments that are no object
        test_what_is_no_object_reaches_the_client_as_one_that_no_tool_takes_for_its_own
    arguments that are torn
        test_wherever_it_is_torn_it_is_closed_as_an_object
    a thought in a text block
        test_reasoning_between_texts_has_a_block_of_its_own
    a thought that is closed late
        test_thinking_is_signed_and_closed_before_anything_else_begins
    two kinds of reasoning at once
        test_reasoning_is_read_once_wherever_it_stands
    usage of 0 in a stream
        test_usage_is_estimated_first_and_exact_in_the_end
    content in an array
        test_content_in_parts_is_read_and_a_refusal_is_text_that_refuses
    ids that the client may not send back
        test_ids_that_the_client_may_not_send_back_are_made_safe
    half a character
        test_half_a_character_costs_that_character_alone

From Messages to a Chat client
    a call without arguments
        test_a_tool_without_arguments_is_called_with_an_empty_object
    an index that counts blocks
        test_the_index_counts_tools_not_blocks
    a second beginning
        test_the_role_comes_first_and_once
    a prompt without what was cached
        test_the_prompt_counts_what_was_cached
    pings that become chunks
        test_a_ping_becomes_a_comment_and_what_is_unknown_is_passed_over
    calls behind end_turn
        test_beside_a_call_only_the_limit_hides_that_it_is_to_be_made

From either to a Responses client
    calls whose fragments are mixed
        test_calls_whose_fragments_are_mixed_come_one_after_the_other
    a torn answer that looks whole
        test_an_answer_that_broke_off_is_incomplete

Requests
    thinking that becomes visible
        test_thinking_never_becomes_visible_text
    signed thinking lost ahead of calls
        test_signed_thinking_comes_back_ahead_of_all_else
    signed thinking lost on the way back
        test_signed_thinking_goes_back_with_its_signature_before_the_calls
    tool_choice none
        test_each_choice_has_its_counterpart
    an image in a result, to Chat
        test_an_image_in_a_result_moves_to_the_user_message_behind_the_results
    an image in a result, to Messages
        test_an_image_in_a_tools_result_stays_in_it
    results that are not one turn
        test_results_of_parallel_calls_and_what_the_user_says_are_one_turn_results_first
    names that are too long
        test_a_name_that_is_too_long_is_shortened_everywhere_and_can_be_restored
    ids of a strange form
        test_every_id_fits_the_pattern_and_leads_to_its_result
    a user_id that is too long
        test_what_only_the_messages_api_knows_stays_behind
    empty texts, to Chat
        test_empty_texts_are_left_out
    empty texts, to Messages
        test_a_blank_text_is_no_block_and_no_turn

Around them
    a cut stream that looks whole
        test_a_stream_that_ends_between_events_is_no_whole_answer
    an error in the middle, swallowed
        test_what_came_before_an_error_is_given_and_then_the_error
    a finish that says error
        test_an_error_that_pretends_to_finish_is_an_error_and_nothing_follows_it
    no sign of life
        test_silence_is_filled_with_pings_between_events_only
    line ends and cuts
        test_crlf_streams_say_the_same_however_they_were_cut
    any cut, translated
        test_a_stream_reads_the_same_however_it_was_cut
    counting tokens refused
        test_counting_is_free_local_and_without_the_preset
    models of one vendor's shape
        test_the_anthropic_sdk_reads_models_and_counts_in_strict_mode
    ... and of the other's
        test_the_openai_sdk_reads_models_in_strict_mode
"""

import json
import re
from pathlib import Path

import pytest
from support.chat_answers import call, chunk
from support.messages_answers import event
from support.stream_rules import check_chat_stream, check_messages_stream

from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_messages import ChatAsMessages, answer
from server.protocols.translation.answers.messages_as_chat import MessagesAsChat

TESTS = Path(__file__).parents[2]
TABLE = re.findall(r"^ {4}(\S.*)\n {8}(test_\w+)$", __doc__, re.MULTILINE)
CONTEXT = Context("m", "1", 0, 1, {})
CACHED = {
    "prompt_tokens": 100,
    "completion_tokens": 7,
    "total_tokens": 107,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def test_each_known_bug_has_its_test():
    written = "".join(
        path.read_text() for path in TESTS.rglob("test_*.py") if path != Path(__file__)
    )
    there = set(re.findall(r"^def (test_\w+)\(", written, re.MULTILINE))

    assert len(TABLE) == __doc__.count("  test_")
    assert [name for _, name in TABLE if name not in there] == []


def chat(*pieces):
    machine = ChatAsMessages(CONTEXT)
    return check_messages_stream(b"".join([*map(machine.feed, pieces), machine.finish()]))


@pytest.mark.parametrize("begins", [b"data:", b"data: ", b"\xef\xbb\xbfdata: "])
def test_a_space_behind_the_fields_name_may_be_left_out(begins):
    said = chat(chunk({"content": "Hi"}).replace(b"data: ", begins), chunk(finish="stop"))

    assert said["content"] == [{"type": "text", "text": "Hi"}]


def test_cached_tokens_are_counted_once_streamed_and_whole():
    message = {"role": "assistant", "content": "Hi"}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": CACHED}

    streamed = chat(chunk({"content": "Hi"}), chunk(finish="stop", usage=CACHED))
    whole = json.loads(answer(json.dumps(body).encode(), CONTEXT))

    assert whole["usage"] == {
        "input_tokens": 10,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 30,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 5},
    }
    assert streamed["usage"] == whole["usage"]


def test_more_cached_than_prompted_is_no_input_below_zero():
    usage = CACHED | {"prompt_tokens": 50}

    assert (
        chat(chunk({"content": "Hi"}), chunk(finish="stop", usage=usage))["usage"]["input_tokens"]
        >= 0
    )


def test_more_thought_than_said_is_not_told():
    usage = CACHED | {"completion_tokens_details": {"reasoning_tokens": 8}}

    said = chat(chunk({"content": "Hi"}), chunk(finish="stop", usage=usage))

    assert "output_tokens_details" not in said["usage"]


def test_the_last_usage_counts_and_nothing_is_summed():
    told = [CACHED | {"completion_tokens": tokens} for tokens in (1, 4, 7)]

    said = chat(*[chunk({"content": "a"}, usage=usage) for usage in told], chunk(finish="stop"))

    assert said["usage"]["output_tokens"] == 7


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call", None, "eos", "error_"])
def test_a_call_ends_its_turn_as_one_whatever_the_finish_is_called(finish):
    said = chat(chunk(call(0, "{}", ident="a", name="T")), chunk(finish=finish))

    assert said["stop_reason"] == "tool_use"


@pytest.mark.parametrize("again", ["b", "c"])
def test_a_waiting_call_keeps_its_first_id_and_one_name_however_often_they_are_told(again):
    said = chat(
        chunk(call(0, '{"x":', ident="a", name="Read")),
        chunk(call(1, '{"y":', ident="b", name="Write")),
        chunk(call(1, "1}", ident=again, name="Write")),
        chunk(call(0, "2}")),
        chunk(finish="tool_calls"),
    )

    calls = [(block["id"], block["name"], block["input"]) for block in said["content"]]
    assert calls == [("a", "Read", {"x": 2}), ("b", "Write", {"y": 1})]


def test_one_answer_begins_once_however_often_its_role_is_told():
    said = chat(*[chunk({"role": "assistant", "content": "a"})] * 3, chunk(finish="stop"))

    assert said["content"] == [{"type": "text", "text": "aaa"}]


def test_citations_and_pings_between_deltas_change_no_text():
    machine = MessagesAsChat(CONTEXT)
    block = {"type": "text", "text": ""}
    pieces = [
        event("content_block_start", index=0, content_block=block),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
        event("ping"),
        event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {}}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "!"}),
        event("content_block_stop", index=0),
    ]

    said = check_chat_stream(b"".join([*map(machine.feed, pieces), machine.finish()]))

    assert said["choices"][0]["message"]["content"] == "Hi!"
