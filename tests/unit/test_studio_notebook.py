import ast
import importlib.util
import json
from pathlib import Path

import pytest

from shopstream.detection.rule import load_rules
from shopstream.engine.flink import flink_sql
from shopstream.events.columns import REES46_COLUMNS

_FOLDER = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("write_studio", _FOLDER / "write_studio.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def paragraphs():
    return json.loads((_FOLDER / "shopstream.zpln").read_text(encoding="utf-8"))["paragraphs"]


def test_the_notebook_is_what_its_writer_writes(writer):
    written = (_FOLDER / "shopstream.zpln").read_text(encoding="utf-8")
    assert written == writer.text(), "run .venv/bin/python notebooks/write_studio.py"


def test_rules_stand_in_it_as_flink_gets_them(writer, paragraphs):
    rules, texts = load_rules(None), [paragraph["text"] for paragraph in paragraphs]
    for rule in writer.RULES:
        assert f"%flink.ssql(type=update)\n{flink_sql(rules[rule].window_declaration())}" in texts


def test_each_paragraph_names_an_interpreter_of_studio(paragraphs):
    heads = {paragraph["text"].split("\n", 1)[0] for paragraph in paragraphs}
    assert heads == {"%md", "%flink.ssql", "%flink.ssql(type=update)", "%flink.pyflink"}
    assert len({paragraph["id"] for paragraph in paragraphs}) == len(paragraphs)


def test_lines_are_read_in_the_order_of_the_csv_files(paragraphs):
    (code,) = [paragraph["text"] for paragraph in paragraphs if paragraph["text"].startswith("%flink.pyflink")]
    assert f'COLUMNS = "{",".join(REES46_COLUMNS)}".split(",")' in code
    ast.parse(code.split("\n", 1)[1])


def test_streams_are_named_as_the_stacks_name_them(paragraphs):
    texts = "".join(paragraph["text"] for paragraph in paragraphs)
    assert "'shopstream-${stage=dev}-events'" in texts
    assert "'shopstream-${stage=dev}-signals'" in texts
