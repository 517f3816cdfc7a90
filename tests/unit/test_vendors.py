"""Which files may know which vendor."""

import ast
from pathlib import Path

import pytest

VALUES = {"boto3.dynamodb.conditions"}  # expressions, no client
SOURCE = Path(__file__).parents[2] / "src" / "shopstream"


def imported(file):
    """Top-level names of what a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module not in VALUES:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("vendors", [{"boto3", "botocore", "aiobotocore", "s3transfer"}])
def test_only_aws_adapters_and_the_aws_folder_know_its_client(vendors):
    knowing = {file for file in SOURCE.rglob("*.py") if vendors & set(imported(file))}
    assert SOURCE / "aws" / "clients.py" in knowing
    assert {file for file in knowing if file.name != "aws.py" and file.parent != SOURCE / "aws"} == set()


@pytest.mark.parametrize("vendor", ["aws_cdk", "moto", "pyflink"])
def test_no_module_imports_deployment_or_stand_in_libraries(vendor):
    assert [file for file in SOURCE.rglob("*.py") if vendor in set(imported(file))] == []
