"""Folders in Hugging Face's form: what is refused, and small real networks with three kinds of tokenizers."""

import json
import pickle
import shutil

import numpy as np
import pytest

from ai.distribution import encode_distributions
from ai.models.bytes_adapter import ByteAdapter
from ai.models.huggingface import HuggingFaceModel, inspect_folder, vocabulary_of
from ai.models.model import Card, Sampling
from ledger.errors import DecodeError, NotFound, UsageError

TEXT = "the quick brown fox jumps over the lazy dog, naïve café — über\n" * 30


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 8)
    return tmp_path


INDEX = "model.safetensors.index.json"


def write(path, value):
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda d: write(d / "config.json", {"model_type": "x", "auto_map": {"AutoModel": "m.M"}}), UsageError, "auto_map"),
        (lambda d: write(d / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": "t.T"}}), UsageError, "code to be run"),
        (lambda d: write(d / "config.json", {"model_type": "x", "quantization_config": {}}), UsageError, "quantised"),
        (lambda d: write(d / "adapter_config.json", {}), UsageError, "adapter"),
        (lambda d: write(d / "config.json", {"model_type": 5}), DecodeError, "model_type"),
        (lambda d: write(d / "config.json", [1]), DecodeError, "no JSON object"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), DecodeError, "no JSON object"),
        (lambda d: (d / "config.json").unlink(), NotFound, "config.json"),
        (lambda d: (d / "tokenizer.json").unlink(), UsageError, "tokenizer.json"),
        (lambda d: (d / "model.safetensors").unlink(), NotFound, "safetensors"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), UsageError, "pickle"),
        (lambda d: write(d / INDEX, {"weight_map": {"a": "../../etc/passwd"}}), DecodeError, "no files"),
        (lambda d: write(d / INDEX, {"weight_map": {"a": "x.bin"}}), DecodeError, "no files"),
        (lambda d: write(d / INDEX, {"weight_map": {"a": 5}}), DecodeError, "no files"),
        (lambda d: write(d / INDEX, {"weight_map": {"a": "b.safetensors"}}), NotFound, "b.safetensors"),
        (lambda d: write(d / "config.json", {"model_type": "gpt2", "n_layer": 10**7}), DecodeError, "n_layer"),
        (lambda d: write(d / "config.json", {"model_type": "llama", "hidden_size": -1}), DecodeError, "hidden_size"),
        (lambda d: write(d / "config.json", {"model_type": "llama", "vocab_size": "9"}), DecodeError, "vocab_size"),
        (lambda d: write(d / "config.json", {"model_type": "gpt2", "n_positions": True}), DecodeError, "n_positions"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 8), DecodeError, "header"),
        (lambda d: (d / "model.safetensors").write_bytes((1 << 20).to_bytes(8, "little") + b"{}"), DecodeError, "header"),
        (lambda d: shutil.rmtree(d), NotFound, "no folder"),
    ],
)  # fmt: skip
def test_a_folder_is_refused_with_its_reason(folder, spoil, error, says):
    spoil(folder)
    with pytest.raises(error, match=says):
        inspect_folder(folder)


class Bomb:
    def __reduce__(self):
        import os

        return os.system, ("touch exploded",)


@pytest.mark.long
def test_pickles_beside_safetensors_are_never_opened(folder, monkeypatch):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (folder / "modeling.py").write_text("raise SystemExit")
    monkeypatch.chdir(folder)
    assert inspect_folder(folder).weights == (folder / "model.safetensors",)
    with pytest.raises(DecodeError, match="cannot load"):
        HuggingFaceModel.load(folder)
    assert not (folder / "exploded").exists()


@pytest.mark.long
def test_unknown_kinds(folder):
    write(folder / "config.json", {"model_type": "no_such_model"})
    with pytest.raises(UsageError, match="no causal language model"):
        HuggingFaceModel.load(folder)


def test_tokenizers_that_lose_bytes_are_refused():
    for bad in ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, {"model": {}}, {}):
        with pytest.raises(UsageError, match="loses bytes"):
            vocabulary_of(bad, 4)


BPE = {"type": "BPE", "vocab": {"a": 0}}


@pytest.mark.parametrize("bad", [
    {"model": 3}, {"model": [1]}, {"model": {"type": "BPE", "vocab": 5}}, {"model": {"type": "BPE", "vocab": "abc"}},
    {"model": {"type": "Unigram", "vocab": [1, 2]}}, {"model": {"type": "Unigram", "vocab": [[]]}},
    {"model": {"type": "Unigram", "vocab": [None]}}, {"model": {"type": "BPE", "vocab": {"\ud800": 0}}},
    {"model": {"type": "BPE", "vocab": {"<0xZZ>": 0}, "byte_fallback": True}}, {"model": BPE, "added_tokens": [{}]},
    {"model": BPE, "added_tokens": [5]}, {"model": BPE, "added_tokens": 7}, {"model": BPE, "added_tokens": {"x": 1}},
    {"model": BPE, "added_tokens": [{"id": "0", "content": "x"}]}, {"model": BPE, "added_tokens": [{"id": 0, "content": None}]},
], ids=repr)
def test_tokenizers_of_no_usual_form_are_named(bad):
    with pytest.raises(DecodeError, match="usual form"):
        vocabulary_of(bad, 4)


def test_a_vocabulary_without_text_is_refused():
    for vocabulary in ({"": 0}, {"a": 9}, {"a": -1}, {"a": True}):
        with pytest.raises(UsageError, match="stands for text"):
            vocabulary_of({"model": {"type": "BPE", "vocab": vocabulary}}, 1)


# --- real networks -----------------------------------------------------------------------------------------------


def gpt2(vocabulary):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(
        vocab_size=vocabulary, n_positions=96, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    ))  # fmt: skip


def llama(vocabulary):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=96, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip


def byte_level(path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def sentence_pieces(path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False))
    tokenizer.save(str(path / "tokenizer.json"))
    value = json.loads((path / "tokenizer.json").read_text())
    value["added_tokens"] = [token for token in value["added_tokens"] if token["id"] < 3]
    write(path / "tokenizer.json", value)
    return tokenizer.get_vocab_size()


def plain_bytes(path):
    write(path / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"})
    return 264


real = pytest.mark.long  # importing transformers alone takes seconds


@pytest.fixture(scope="module", params=[(gpt2, byte_level), (llama, sentence_pieces), (llama, plain_bytes)],
                ids=["byte-level", "sentence pieces", "bytes"])  # fmt: skip
def saved(request, tmp_path_factory):
    pytest.importorskip("transformers")
    import torch

    make, tokenizer = request.param
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    torch.set_num_threads(1)
    make(tokenizer(path)).save_pretrained(path)
    return path


@real
def test_a_folder_is_a_neuron(saved):
    model = HuggingFaceModel.load(saved, name="mine", domains=("english",))
    card = model.card()
    assert Card.decode(card.encode()) == card and card.parameters > 10_000 and card.context_bytes == 94
    assert card.model_hash == HuggingFaceModel.load(saved).card().model_hash
    windows = [b"", b"the qui", b"jumps over the l", b"na\xc3", "naïve café ".encode(), b"\xff\x00\xfe", b"x" * 300]
    rows = model.next_bytes(windows)
    assert rows.shape == (len(windows), 256) and np.allclose(rows.sum(axis=1), 1)
    assert len(encode_distributions(rows)) == 98 * len(windows)
    for window, row in zip(windows, rows, strict=True):
        assert np.allclose(model.next_bytes([window])[0], row, atol=1e-5), "alone as among others"


@real
def test_what_else_is_in_a_batch_changes_no_answer_of_half_precision_weights(tmp_path):
    pytest.importorskip("transformers")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(
        vocab_size=plain_bytes(tmp_path), hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    with torch.no_grad():
        for name, part in network.named_parameters():
            if part.dim() > 1:
                part.mul_(60.0 if "lm_head" in name else 2.0)  # a sharp one, as trained networks are
    network.to(torch.bfloat16).save_pretrained(tmp_path)
    model, random = HuggingFaceModel.load(tmp_path), np.random.default_rng(1)
    windows = [random.bytes(int(size)) for size in random.integers(1, 90, size=24)]
    together = model.next_bytes(windows)
    assert together.max(axis=1).mean() > 0.5
    alone = np.stack([model.next_bytes([window])[0] for window in windows])
    assert np.abs(together - alone).sum(axis=1).max() / 2 < 0.001


@real
def test_the_tokenizers_own_cut_is_used_and_stands_for_the_bytes(saved):
    model = HuggingFaceModel.load(saved)
    for text in (b"the quick brown", " über — naïve".encode(), b" fox\n the", b"\n"):
        tokens, _, start = model.adapter.cut(text)
        assert start == 0 and b"".join(model._tokens.vocabulary[t] for t in tokens) == text
    if model._tokens._tokenizer is not None:
        assert model._tokens.encode(b"the quick brown") == model.adapter.cut(b"the quick brown")[0] != []
        assert len(model.adapter.cut(b"the quick brown")[0]) < 15, "tokens of more than one byte"


@real
def test_the_sum_over_cuts_is_the_networks_own(saved):
    """Against forward passes of the whole text, one for each cover, through the library alone."""
    import torch

    model = HuggingFaceModel.load(saved)
    adapter = ByteAdapter(model._tokens, model._start, lookback_bytes=99, least_share=0.0, max_cuts=10**6)
    vocabulary, text, total = model._tokens.vocabulary, b"the q", np.zeros(256)

    def extend(tokens, done, weight):
        with torch.inference_mode():
            row = torch.softmax(model._network(torch.tensor([model._start + tokens])).logits[0, -1], -1).numpy()
        for token, data in enumerate(vocabulary):
            rest = text[done:]
            if data and data.startswith(rest) and len(data) > len(rest):
                total[data[len(rest)]] += weight * row[token]
            elif data and rest.startswith(data):
                extend([*tokens, token], done + len(data), weight * row[token])

    extend([], 0, 1.0)
    assert np.allclose(adapter.next_bytes([text])[0], total / total.sum(), atol=1e-5)


@real
def test_text_is_written_within_its_bounds(saved):
    model = HuggingFaceModel.load(saved)
    for temperature in (0.0, 1.0):
        sampling = Sampling(max_units=20, temperature=temperature, top_p=0.9, seed=5)
        first, again = (b"".join(model.write(b"the quick", sampling)) for _ in range(2))
        assert first == again and 0 <= len(first) <= 20
    whole = b"".join(model.write(b"fox", Sampling(max_units=30, temperature=1.5, seed=2)))
    if len(whole) > 4:
        stop = whole[2:4]
        stopped = b"".join(model.write(b"fox", Sampling(max_units=30, temperature=1.5, seed=2, stops=(stop,))))
        assert stopped == whole[: whole.find(stop)]
    assert len(b"".join(model.write(b"long " * 200, Sampling(max_units=64, seed=1)))) <= 64


@real
def test_weights_that_do_not_fill_the_network_are_refused(saved, tmp_path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(saved, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    before = inspect_folder(tmp_path / "m").model_hash()
    name = next(name for name in tensors if "norm" in name or "ln_1" in name)
    tensors.pop(name)
    save_file(tensors, file, metadata={"format": "pt"})
    assert inspect_folder(tmp_path / "m").model_hash() != before
    with pytest.raises(DecodeError, match="missing"):
        HuggingFaceModel.load(tmp_path / "m")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DecodeError, match="cannot load"):
        HuggingFaceModel.load(tmp_path / "m")
