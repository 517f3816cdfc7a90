"""Builds the package of the detection functions; the same inputs give the same bytes.

    make lambda                                   the package that is deployed (arm64, this Python)
    python infra/package_lambda.py --help         others

A package holds the locked libraries for the functions' platform, the parts of shopstream that they use, the rules as
checked data (so that it needs neither DuckDB nor a SQL parser) and the allow-lists. A JSON file beside it states
runtime, architecture, digest and sizes.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from shopstream.detection.allowlist import load_allow_list
from shopstream.detection.rule import load_rules
from shopstream.detection.rule_matcher import write_rule_bundle

ROOT = Path(__file__).resolve().parents[1]
NAME = "shopstream-detection"
MAX_ZIPPED = 50_000_000
MAX_UNZIPPED = 250_000_000
"""Limits of a directly uploaded package, packed and unpacked."""

PLATFORMS = {"arm64": "aarch64-manylinux2014", "x86_64": "x86_64-manylinux2014"}
PACKAGES = (
    "aws",
    "dashboard",
    "detection",
    "engine",
    "events",
    "incidents",
    "lakehouse",
    "lambdas",
    "notify",
    "response",
    "stream",
)
"""Folders of shopstream in the package, besides its top modules; a test runs the functions from the package."""

SERVICES = ("dynamodb", "firehose", "s3", "sns", "sqs", "sts")
"""AWS services whose descriptions are included: botocore has those of all, 100 MB."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a ZIP file can store."""


def main() -> None:
    """Build one package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=sorted(PLATFORMS), default="arm64")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="of the runtime")
    parser.add_argument("--rules", type=Path, help="folder of your own rules, as detection.rules_path")
    parser.add_argument("--allow-lists", type=Path, help="folder of allow-lists, as detection.allow_lists_path")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "lambda")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lambda-") as folder:
        build = Path(folder)
        install(build, arguments.architecture, arguments.python)
        prune(build)
        add_shopstream(build, arguments.rules, arguments.allow_lists)
        compile_all(build, arguments.python)
        arguments.out.mkdir(parents=True, exist_ok=True)
        suffix = "" if arguments.architecture == "arm64" else f"-{arguments.architecture}"
        target = arguments.out / f"{NAME}{suffix}.zip"
        sizes = write_zip(build, target)
        describe(target, sizes, build, arguments)


def install(build: Path, architecture: str, python: str) -> None:
    """Install the locked libraries for the functions' platform, from wheels only."""
    command = ["--system-certs", "pip", "install", "--quiet", "--target", str(build), "--python-version", python]
    command += ["--python-platform", PLATFORMS[architecture], "--only-binary", ":all:", "--require-hashes"]
    command += ["--no-deps", "-r", str(ROOT / "requirements" / "lambda.txt")]
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([str(uv) if uv.exists() else "uv", *command], check=True)  # noqa: S603  our own arguments


def prune(build: Path) -> None:
    """Remove what no function reads; licences stay."""
    data = build / "botocore" / "data"
    for service in data.iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for pattern in ("bin", "boto3/examples", "**/tests", "**/*.pyi", ".lock", "*.dist-info/RECORD"):
        for found in build.glob(pattern):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    for pattern in ("*.dist-info/INSTALLER", "*.dist-info/REQUESTED", "*.dist-info/direct_url.json"):
        for found in build.glob(pattern):
            found.unlink()


def add_shopstream(build: Path, rules: Path | None, allow_lists: Path | None) -> None:
    """Add our own code, the rules as data, and the allow-lists."""
    source, target = ROOT / "src" / "shopstream", build / "shopstream"
    for file in sorted(source.rglob("*.py")):
        place = file.relative_to(source)
        if len(place.parts) == 1 or place.parts[0] in PACKAGES:
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / place)
    (target / "lambdas" / "rules.json").write_bytes(write_rule_bundle(load_rules(rules)))
    if allow_lists:
        load_allow_list(allow_lists)  # report mistakes here, not in the function
        (target / "lambdas" / "allow_lists").mkdir()
        for file in sorted(allow_lists.glob("*.yml")):
            shutil.copyfile(file, target / "lambdas" / "allow_lists" / file.name)


def compile_all(build: Path, python: str) -> None:
    """Compile to bytecode: a function cannot store it and would compile everything at each cold start."""
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        print(f"no bytecode; run this with Python {python} for shorter cold starts")
        return
    options = ["-q", "-f", "-j1", "--invalidation-mode", "unchecked-hash", "-s", str(build), "-p", "/var/task"]
    subprocess.run(  # noqa: S603  our own arguments
        [sys.executable, "-m", "compileall", *options, str(build)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )


def write_zip(build: Path, target: Path) -> Counter[str]:
    """Write the package, sorted and with one timestamp; return unpacked bytes by library."""
    sizes: Counter[str] = Counter()
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as package:
        for file in sorted(path for path in build.rglob("*") if path.is_file()):
            place = file.relative_to(build).as_posix()
            info = zipfile.ZipInfo(place, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, on any build machine
            info.external_attr = (0o100644 if file.suffix != ".so" else 0o100755) << 16
            package.writestr(info, file.read_bytes())
            sizes[place.partition("/")[0]] += file.stat().st_size
    part.replace(target)
    return sizes


def describe(target: Path, sizes: Counter[str], build: Path, arguments: argparse.Namespace) -> None:
    """Write the description; a package over a limit is an error."""
    rules = json.loads((build / "shopstream" / "lambdas" / "rules.json").read_bytes())
    zipped, unzipped = target.stat().st_size, sizes.total()
    manifest = {
        "runtime": f"python{arguments.python}",
        "architecture": arguments.architecture,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "zipped_bytes": zipped,
        "unzipped_bytes": unzipped,
        "rules": len(rules["rules"]),
        "rules_digest": rules["digest"],
    }
    target.with_suffix(".json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {zipped / 1e6:.1f} MB, unpacked {unzipped / 1e6:.1f} MB, sha256 {manifest['sha256']}")
    for name, size in sizes.most_common(8):
        print(f"  {size / 1e6:6.1f} MB  {name}")
    if zipped > MAX_ZIPPED or unzipped > MAX_UNZIPPED:
        target.unlink()
        raise SystemExit(f"expected at most {MAX_ZIPPED / 1e6:.0f} MB packed and {MAX_UNZIPPED / 1e6:.0f} MB unpacked")


if __name__ == "__main__":
    main()
