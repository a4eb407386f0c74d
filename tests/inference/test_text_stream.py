"""Laws of streamed text: joined, the pieces are the decoded text up to the first stop string, never taken back."""

import random

import pytest

from llm_jax.inference.text_stream import TextStream

TEXT = "Grüße, 世界! naïve — 👩‍🚀 ... STOP and STO again ST\ufffdOP; end 🎉"


def by_bytes(ids):
  return bytes(ids).decode("utf-8", "replace")


def byte_for_byte(ids):
  """As SentencePiece shows torn characters: one replacement for every byte."""
  out, data = "", bytes(ids)
  while data:
    for size in (1, 2, 3, 4):
      try:
        out, data = out + data[:size].decode(), data[size:]
        break
      except UnicodeDecodeError:
        continue
    else:
      out, data = out + "\ufffd", data[1:]
  return out


def run(ids, decode, stop=()):
  stream = TextStream(decode, stop)
  pieces = []
  for token in ids:
    pieces.append(stream.push(token))
    if stream.stopped:
      break
  pieces.append(stream.finish())
  assert "".join(pieces) == stream.text
  return pieces, stream


@pytest.mark.parametrize("decode", [by_bytes, byte_for_byte])
def test_only_whole_characters_come_out(decode):
  pieces, _ = run(TEXT.encode() * 3, decode)
  assert "".join(pieces) == TEXT * 3
  assert "\ufffd" not in "".join(pieces).replace("ST\ufffdOP", "")
  assert sum(map(bool, pieces)) > len(TEXT) * 2  # it streams, and does not wait for the end


@pytest.mark.parametrize("decode", [by_bytes, byte_for_byte])
def test_bytes_that_are_no_text_do_not_hold_the_stream_up(decode):
  ids = list(b"ab" + b"\xff" * 20 + "cd é".encode() + b"\xe4\xb8")
  pieces, _ = run(ids, decode)
  assert "".join(pieces) == decode(ids)
  assert any("\ufffd" in piece for piece in pieces[:-1])


def test_stop_strings_match_across_tokens_wherever_these_are_cut():
  rng = random.Random(0)
  for _ in range(300):
    text = "".join(rng.choice("abc") for _ in range(rng.randint(1, 30)))
    stop = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(1, 3))]
    ends = [(text.index(s) + len(s), text.index(s)) for s in stop if s in text]
    expected = text[:min(ends)[1]] if ends else text
    vocabulary, at = [], 0
    while at < len(text):
      size = rng.randint(1, 6)
      vocabulary.append(text[at:at + size])
      at += size
    _, stream = run(range(len(vocabulary)), lambda ids, words=vocabulary: "".join(words[i] for i in ids), stop)
    assert stream.text == expected and stream.stopped == bool(ends), (text, stop)


def test_what_cannot_become_a_stop_string_is_not_held():
  words = ["Hello", " wor", "ld\n", "\nUs", "er:"]
  stream = TextStream(lambda ids: "".join(words[i] for i in ids), ["\n\nUser:"])
  assert [stream.push(i) for i in range(5)] == ["Hello", " wor", "ld", "", ""]
  assert stream.stopped and stream.finish() == "" and stream.text == "Hello world"
