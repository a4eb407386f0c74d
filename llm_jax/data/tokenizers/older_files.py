"""Published vocabularies from before tokenizer.json, put into its words: vocab.txt (WordPiece: BERT, ELECTRA, ERNIE),
vocab.json with merges.txt (byte-level BPE: GPT-2, RoBERTa; with '</w>': GPT-1), spiece.model and spm.model
(SentencePiece Unigram: T5, XLNet, DeBERTa 2).

What surrounds a text, [CLS] A [SEP] B [SEP] or A </s>, is the family's: by config.json or tokenizer_config.json, else
by the tokens that the vocabulary has. No code of the folder runs.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data.tokenizers.sentencepiece_model import SentencePieceModel

UNIGRAM = ("spiece.model", "spm.model")
T5_SENTINELS = 100


def library() -> Any:
  """The package `tokenizers`, which is optional."""
  try:
    import tokenizers
  except ImportError as e:
    raise ConfigError("config.data.tokenizer.name", "'hub' needs the package tokenizers",
                      accepted="pip install tokenizers") from e
  return tokenizers


def find(folder: pathlib.Path) -> bytes | None:
  """The content of the folder's tokenizer.json, or one made of its older files; None if it has neither.

  Raises:
    DataError: files that are not what their names say. ConfigError: a vocabulary of a kind that is not read.
  """
  if (folder / "tokenizer.json").is_file():
    return (folder / "tokenizer.json").read_bytes()
  settings = {**json_object(folder / "config.json"), **json_object(folder / "special_tokens_map.json"),
              **json_object(folder / "tokenizer_config.json")}
  unigram = next((folder / name for name in UNIGRAM if (folder / name).is_file()), None)
  try:
    if (folder / "vocab.txt").is_file():
      made = wordpiece(folder / "vocab.txt", settings)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
      made = pair_merges(folder, settings)
    elif unigram is not None:
      made = sentence_pieces(unigram, settings)
    else:
      return None
  except (ValueError, KeyError, TypeError) as e:
    raise DataError(f"the vocabulary in {folder} cannot be read: {e}") from e
  made.add_tokens([_added(token, False) for token, _ in sorted(json_object(folder / "added_tokens.json").items(),
                                                              key=lambda item: item[1])])
  return made.to_str().encode()


def wordpiece(path: pathlib.Path, settings: Mapping[str, Any]) -> Any:
  """BERT's: words and signs, then the longest pieces from the left, '##' where a word goes on."""
  tk = library()
  vocab = {token: i for i, token in enumerate(path.read_text("utf-8").splitlines())}
  cased = any(token != token.lower() and not (token[0] == "[" and token[-1] == "]") for token in vocab if token)
  role = lambda name, usual: _token(settings, name) or usual
  made = tk.Tokenizer(tk.models.WordPiece(vocab, unk_token=role("unk", "[UNK]"), max_input_chars_per_word=100))
  made.normalizer = tk.normalizers.BertNormalizer(
      lowercase=settings.get("do_lower_case", not cased), strip_accents=settings.get("strip_accents"),
      handle_chinese_chars=settings.get("tokenize_chinese_chars", True))
  made.pre_tokenizer, made.decoder = tk.pre_tokenizers.BertPreTokenizer(), tk.decoders.WordPiece(prefix="##")
  cls, sep = role("cls", "[CLS]"), role("sep", "[SEP]")
  made.post_processor = tk.processors.BertProcessing((sep, vocab[sep]), (cls, vocab[cls]))
  _mark(made, settings, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
  return made


def pair_merges(folder: pathlib.Path, settings: Mapping[str, Any]) -> Any:
  """Byte pairs: GPT-2's over bytes, RoBERTa's with <s> A </s></s> B </s> around, GPT-1's over lower-cased words."""
  tk = library()
  vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
  lines = (folder / "merges.txt").read_text("utf-8").splitlines()
  merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
  if any(token.endswith("</w>") for token in vocab):
    made = tk.Tokenizer(tk.models.BPE(vocab, merges, unk_token="<unk>", end_of_word_suffix="</w>"))
    made.normalizer, made.pre_tokenizer = tk.normalizers.BertNormalizer(), tk.pre_tokenizers.BertPreTokenizer()
    made.decoder = tk.decoders.BPEDecoder(suffix="</w>")
    _mark(made, settings, ("<unk>",))
    return made
  made = tk.Tokenizer(tk.models.BPE(vocab, merges))
  space = bool(settings.get("add_prefix_space", False))
  made.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=space)
  made.decoder = tk.decoders.ByteLevel()
  if "<mask>" in vocab or _family(settings) in ("roberta", "longformer", "bart"):
    made.post_processor = tk.processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]),
                                                          trim_offsets=True, add_prefix_space=space)
  elif _family(settings) == "deberta" or "[CLS]" in vocab:
    made.post_processor = _around(tk, vocab, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]"))
  _mark(made, settings, ("<s>", "</s>", "<pad>", "<unk>", "<mask>", "<|endoftext|>", "[CLS]", "[SEP]", "[PAD]", "[UNK]",
                         "[MASK]"))
  return made


def sentence_pieces(path: pathlib.Path, settings: Mapping[str, Any]) -> Any:
  """Unigram pieces over the model's own normalisation, with what the family puts around a text and adds on top.

  Raises:
    ConfigError: a model of pair merges.
  """
  tk, model = library(), SentencePieceModel.parse(path.read_bytes())
  if not model.unigram:
    raise ConfigError("config.data.tokenizer.path", f"{path} holds pair merges, not Unigram pieces",
                      accepted="a folder with tokenizer.json")
  names = {piece for piece, _ in model.pieces}
  family = FAMILIES[_family(settings)] if _family(settings) in FAMILIES else next(
      (made for mark, made in (("<cls>", _xlnet), ("[CLS]", _deberta)) if mark in names), _t5)
  return family(tk, model, settings)


def _t5(tk: Any, model: SentencePieceModel, settings: Mapping[str, Any]) -> Any:
  extra = [f"<extra_id_{i}>" for i in reversed(range(settings.get("extra_ids", T5_SENTINELS)))]
  made = _unigram(tk, model, [*model.pieces, *((token, 0.0) for token in extra)],
                  [*model.normalizers(tk), tk.normalizers.Strip(left=False, right=True),
                   tk.normalizers.Replace(tk.Regex(" {2,}"), "▁")])
  made.post_processor = _around(tk, made.get_vocab(), "$A </s>", "$A </s> $B </s>", ("</s>",))
  _mark(made, settings, ("<pad>", "</s>", "<unk>", *extra))
  return made


def _xlnet(tk: Any, model: SentencePieceModel, settings: Mapping[str, Any]) -> Any:
  n = tk.normalizers
  steps = [n.Replace("``", '"'), n.Replace("''", '"')]
  steps += [] if settings.get("keep_accents", False) else [n.NFKD(), n.StripAccents()]
  steps += [n.Lowercase()] if settings.get("do_lower_case", False) else []
  made = _unigram(tk, model, model.pieces, [*steps, *model.normalizers(tk), n.Strip(),
                                            n.Replace(tk.Regex(" {2,}"), " ")])
  made.post_processor = _around(tk, made.get_vocab(), "$A:0 <sep>:0 <cls>:2", "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
                                ("<sep>", "<cls>"))
  _mark(made, settings, ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"))
  return made


def _deberta(tk: Any, model: SentencePieceModel, settings: Mapping[str, Any]) -> Any:
  n = tk.normalizers
  names = {piece for piece, _ in model.pieces}
  pieces = [*model.pieces, *(() if "[MASK]" in names else (("[MASK]", 0.0),))]
  lower = [n.Lowercase()] if settings.get("do_lower_case", False) else []
  made = _unigram(tk, model, pieces, [*lower, n.Strip(), *model.normalizers(tk),
                                      n.Replace(tk.Regex(" {2,}"), " ")])
  made.post_processor = _around(tk, made.get_vocab(), "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
                                ("[CLS]", "[SEP]"))
  _mark(made, settings, ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"))
  return made


FAMILIES: dict[str, Callable[[Any, SentencePieceModel, Mapping[str, Any]], Any]] = {
    "t5": _t5, "mt5": _t5, "xlnet": _xlnet, "deberta-v2": _deberta, "debertav2": _deberta}


def _unigram(tk: Any, model: SentencePieceModel, pieces: Any, normalizers: list) -> Any:
  made = tk.Tokenizer(tk.models.Unigram(list(pieces), model.unknown, model.byte_fallback))
  made.normalizer = tk.normalizers.Sequence(normalizers)
  made.pre_tokenizer = tk.pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
  made.decoder = tk.decoders.Metaspace(replacement="▁", prepend_scheme="always")
  return made


def _around(tk: Any, vocab: Mapping[str, int], single: str, pair: str, tokens: tuple[str, ...]) -> Any:
  return tk.processors.TemplateProcessing(single=single, pair=pair,
                                          special_tokens=[(token, vocab[token]) for token in tokens])


def _mark(made: Any, settings: Mapping[str, Any], usual: tuple[str, ...]) -> None:
  """Makes special what the folder or the family calls so, where the vocabulary has it."""
  vocab = made.get_vocab()
  named = [t for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask") if (t := _token(settings, role))]
  found = [t for t in dict.fromkeys([*usual, *named]) if t in vocab]
  made.add_special_tokens([_added(t, True) for t in sorted(found, key=vocab.__getitem__)])


def _added(token: str, special: bool) -> Any:
  return library().AddedToken(token, special=special, normalized=False, lstrip=token == "<mask>")


def _token(settings: Mapping[str, Any], role: str) -> str | None:
  token = settings.get(f"{role}_token")
  return token.get("content") if isinstance(token, Mapping) else token


def _family(settings: Mapping[str, Any]) -> str:
  """'t5' of a T5Tokenizer or a config.json of T5."""
  name = str(settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer").lower()
  return str(settings.get("model_type") or name)


def json_object(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object that may be absent.

  Raises:
    DataError: the file holds something else.
  """
  if not path.is_file():
    return {}
  try:
    value = json.loads(path.read_bytes())
  except ValueError as e:
    raise DataError(f"{path}: not readable as JSON ({e})") from None
  if not isinstance(value, dict):
    raise DataError(f"{path}: holds a {type(value).__name__}, not an object")
  return value
