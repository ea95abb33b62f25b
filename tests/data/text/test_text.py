"""Text: what is read, how it is split, and the windows of it."""

from __future__ import annotations

import itertools
import json
import pydoc_data.topics
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from data.files import DataError
from data.text.dataset import SPLITS, notes, open_split, prepare, warnings
from data.text.settings import DataSettings
from data.text.tokens import ByteTokenizer, open_tokenizer
from data.text.windows import TextWindows
from settings.schema import SettingsError

BYTES = ByteTokenizer()


def text_of(windows):
    """Of windows side by side, which share a token: document -> its text."""
    texts = {}
    for index, name in enumerate(windows.units):
        sample = windows[index]
        real = sample["tokens"][sample["mask"]].tolist()
        texts[name] = texts.get(name, []) + (real if name not in texts else real[1:])
    return texts


@given(st.text())
def test_bytes_come_back_as_the_text(text):
    tokens = BYTES.encode(text)
    assert tokens.tolist() == list(text.encode())
    assert BYTES.decode([BYTES.separator, *tokens, BYTES.separator]) == text


def test_every_topic_is_read_whole_and_lies_in_one_split(tmp_path):
    settings = DataSettings(window=100)
    prepared = prepare(settings, tmp_path)
    texts = [text_of(open_split(prepared, split, settings)) for split in SPLITS]
    names = [name for text in texts for name in text]
    topics = pydoc_data.topics.topics
    assert sorted([*names, *prepared.repeated]) == sorted(topics)  # and none twice
    for name, tokens in ((n, t) for text in texts for n, t in text.items()):
        assert tokens[0] == tokens[-1] == BYTES.separator
        assert BYTES.decode(tokens[1:-1]) == pydoc_data.topics.topics[name]
    assert all(len(text) >= 8 for text in texts)


def test_a_topic_that_stands_in_another_one_is_left_out(tmp_path):
    """By passages of 200 characters: of what is left next to none is in two splits."""
    settings = DataSettings()
    prepared = prepare(settings, tmp_path)
    topics = pydoc_data.topics.topics
    assert {"while", "for", "try", "customization", "sequence-types"} <= set(prepared.repeated)
    assert notes(prepared, settings)["data.repeated"] == len(prepared.repeated)
    of_split = [
        {
            text[i : i + 200]
            for text in map(topics.get, prepared.names[split])
            for i in range(len(text) - 200)
        }
        for split in SPLITS
    ]
    for one, other in itertools.combinations(of_split, 2):
        assert len(one & other) < 0.005 * min(len(one), len(other))


def test_folds_validate_on_other_documents(tmp_path):
    settings = [DataSettings(fold=fold) for fold in range(6)]
    drawn = [prepare(each, tmp_path).names for each in settings]
    validations = [set(names["validation"]) for names in drawn]
    assert len(set().union(*validations)) == sum(map(len, validations)) > 40
    for names in drawn:
        assert not set(names["validation"]) & {*names["train"], *names["test"]}
    with pytest.raises(SettingsError, match=r"data\.fold=6 .* 6 folds"):
        DataSettings(fold=6)
    text = tmp_path / "one.txt"
    text.write_text("if else " * 200)
    with pytest.raises(DataError, match="this one is alone"):
        prepare(DataSettings(source="files", path=str(text), fold=1), tmp_path)
    few = tmp_path / "few"
    few.mkdir()
    for name in "abcde":
        (few / f"{name}.txt").write_text(f"{name} " * 100)
    two = {"source": "files", "path": str(few), "validation_share": 0.3, "test_share": 0.0}
    with pytest.raises(DataError, match=r"Lower data\.fold"):
        prepare(DataSettings(**two, fold=2), tmp_path)


def test_every_token_is_predicted_once(tmp_path):
    settings = DataSettings(window=64)
    prepared = prepare(settings, tmp_path)
    windows = open_split(prepared, "test", settings)
    predicted = sum(int(windows[i]["mask"][1:].sum()) for i in range(len(windows)))
    assert predicted == notes(prepared, settings)["data.test_tokens"]


def test_a_window_is_of_one_document_and_its_seed_says_where(tmp_path):
    settings = DataSettings(window=50)
    prepared = prepare(settings, tmp_path)
    windows = open_split(prepared, "train", settings)
    streams = {name: bytes(t % 256 for t in ts[1:-1]) for name, ts in text_of(windows).items()}
    drawn = Counter()
    for seed in range(200):
        index = seed % len(windows)
        sample = windows[(index, seed)]
        assert all(np.array_equal(sample[k], windows[(index, seed)][k]) for k in sample)
        real = sample["tokens"][sample["mask"]].tolist()
        inner = bytes(t for t in real if t != BYTES.separator)
        assert inner in streams[windows.units[index]]
        assert all(t == BYTES.separator for t in sample["tokens"][~sample["mask"]].tolist())
        drawn[windows[(7, seed)]["tokens"].numpy().tobytes()] += 1
    assert len(drawn) > 100


def windows_over(tmp_path, lengths, window, most=0):
    """Documents of such lengths, without their separators."""
    tokens, starts = [256], [0]
    for number, length in enumerate(lengths):
        tokens += [number] * length + [256]
        starts.append(len(tokens) - 1)
    path = tmp_path / "tokens.npy"
    np.save(path, np.array(tokens, dtype=np.uint16))
    names = [str(number) for number in range(len(lengths))]
    return TextWindows(path, starts, names, window, 256, most)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), window=st.integers(2, 12))
def test_windows_tile_documents_of_any_length(tmp_path_factory, lengths, window):
    windows = windows_over(tmp_path_factory.mktemp("windows"), lengths, window)
    texts = text_of(windows)
    assert texts == {str(n): [256, *[n] * length, 256] for n, length in enumerate(lengths)}
    for index in range(len(windows)):
        sample = windows[(index, 3)]
        document = int(windows.units[index])
        assert set(sample["tokens"].tolist()) <= {document, 256}
        assert int(sample["mask"].sum()) == min(window, lengths[document] + 2)


def test_a_subset_is_evenly_spaced(tmp_path):
    windows = windows_over(tmp_path, [49], window=6, most=3)
    assert windows.place.tolist() == [0, 4, 9]


def test_files_of_every_format_are_documents(tmp_path):
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text("first text")
    (folder / "more" / "b.md").write_bytes(b"broken \xff here")
    (folder / "empty.txt").write_text(" \n")
    (folder / ".hidden").write_text("not a text")
    rows = [{"text": f"line {n}", "id": n} for n in range(4)]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet.write_table(pa.table({"text": ["row 0", None, "row 2"]}), folder / "d.parquet")
    settings = DataSettings(source="files", path=str(folder), window=8, test_share=0.2)
    prepared = prepare(settings, tmp_path / "cache")
    texts = {
        name: BYTES.decode(tokens)
        for split in SPLITS
        for name, tokens in text_of(open_split(prepared, split, settings)).items()
    }
    assert texts == {
        "a.txt": "first text",
        "more/b.md": "broken \ufffd here",
        **{f"c.jsonl:{n}": f"line {n}" for n in range(4)},
        "d.parquet:0": "row 0",
        "d.parquet:2": "row 2",
    }
    assert list(prepared.invalid) == ["more/b.md"]
    assert sorted(prepared.empty) == ["d.parquet:1", "empty.txt"]
    said = " ".join(warnings(prepared, settings))
    assert "more/b.md" in said and "empty.txt" in said and "d.parquet:0" in said
    assert notes(prepared, settings)["data.invalid_utf8"] == 1.0


def test_a_single_document_is_cut_contiguously(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("".join(chr(97 + n // 10) for n in range(200)))
    settings = DataSettings(source="files", path=str(path), window=16)
    prepared = prepare(settings, tmp_path / "cache")
    parts = [
        BYTES.decode(tokens)
        for split in SPLITS
        for tokens in text_of(open_split(prepared, split, settings)).values()
    ]
    assert "".join(parts) == path.read_text()
    assert [len(part) for part in parts] == [140, 30, 30]


def test_a_tokenizer_of_a_folder(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<s>": 0, "[UNK]": 1, "a": 2, "word": 70_000}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / "words"
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError, match="expected a token that begins or ends"):
        open_tokenizer(str(folder))
    (folder / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}}')
    tokenizer = open_tokenizer(str(folder))
    assert tokenizer.encode("a word a").tolist() == [2, 70_000, 2]
    assert tokenizer.separator == 0
    assert tokenizer.decode([0, 2, 70_000, 0]) == "a word"
    path = tmp_path / "text.txt"
    path.write_text("word a a a a a a a a")
    settings = DataSettings(source="files", path=str(path), tokenizer=str(folder), window=4)
    prepared = prepare(settings, tmp_path / "cache")
    assert prepared.vocabulary == 70_001
    windows = open_split(prepared, "train", settings)
    assert windows.tokens.dtype == np.uint32  # uint16 ends at 65,535
    assert windows[0]["tokens"].tolist() == [0, 70_000, 2, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"body": "x"}', "expected an object with 'text' in line 1, found body"),
        ("a.jsonl", "{", "expected JSON in line 1"),
        ("a.jsonl", '{"text": 3}', "expected text in column 'text', found int"),
        ("a.parquet", "no table", "expected a Parquet file"),
        ("a.txt", "  ", "expected text, found 1 empty document"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    settings = DataSettings(source="files", path=str(path))
    with pytest.raises(DataError, match=message):
        prepare(settings, tmp_path / "cache")


def test_a_path_that_is_not_there_and_one_that_is_not_read(tmp_path):
    settings = DataSettings(source="files", path=str(tmp_path / "none"))
    with pytest.raises(DataError, match="found nothing"):
        prepare(settings, tmp_path / "cache")
    with pytest.raises(SettingsError, match="reads no files"):
        DataSettings(path="x")
    with pytest.raises(SettingsError, match=r"needs data.path"):
        DataSettings(source="files")
