"""Which cluster is meant, and what a person is told where that is not clear."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from unit.client.scripted_server import write_kubeconfig

from asyncrl.backends import kubeconfig
from asyncrl.backends.kubeconfig import find_cluster
from asyncrl.cli.main import main
from asyncrl.errors import JobError

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path / "kubeconfig"


def test_the_current_context_and_its_namespace(config: Path) -> None:
    write_kubeconfig(config, NOWHERE)
    cluster = find_cluster()
    assert (cluster.context, cluster.namespace, cluster.address) == ("here", "team", NOWHERE)
    assert find_cluster("there").context == "there"


def test_a_context_without_a_namespace_means_default(config: Path) -> None:
    write_kubeconfig(config, NOWHERE, namespace="")
    assert find_cluster().namespace == "default"


def test_several_files_are_merged_as_kubectl_does(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kubeconfig(config, NOWHERE)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}:{config}")
    assert find_cluster().context == "here"


@pytest.mark.parametrize(
    ("text", "context", "words"),
    [
        (None, None, "no kubeconfig here; set KUBECONFIG to the file of your cluster"),
        ("", None, "file is empty; put the kubeconfig right"),
        ("a: [", None, "put the kubeconfig right"),
        ("contexts: []\n", None, "has no context; set KUBECONFIG"),
        ("current-context: x\nclusters: 5\n", None, "put the kubeconfig right"),
        ("good", "hare", "'hare' is not in FILE; did you mean 'here'?"),
        ("good", "zzzz", "'zzzz' is not in FILE; use one of here, there"),
    ],
)
def test_a_kubeconfig_that_does_not_do_is_one_line(
    text: str | None, context: str | None, words: str, config: Path
) -> None:
    if text == "good":
        write_kubeconfig(config, NOWHERE)
    elif text is not None:
        config.write_text(text)
    with pytest.raises(JobError) as caught:
        find_cluster(context)
    line = str(caught.value)
    assert str(config) in line
    assert words.replace("FILE", str(config)) in line
    assert "\n" not in line


def test_without_a_current_context_one_has_to_be_chosen(config: Path) -> None:
    write_kubeconfig(config, NOWHERE)
    config.write_text(config.read_text().replace("current-context: here", "current-context: ''"))
    with pytest.raises(JobError, match="choose one with --context: here, there"):
        find_cluster()
    assert find_cluster("here").namespace == "team"


def test_in_a_pod_it_is_the_cluster_around(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config

    (tmp_path / "token").write_text("secret")
    (tmp_path / "ca.crt").write_text("a certificate")
    (tmp_path / "namespace").write_text("pipelines\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(JobError, match=r"no service account of this pod \(Service token file"):
        find_cluster()
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT_NAMESPACE", tmp_path / "namespace")
    cluster = find_cluster()
    assert cluster.address == "https://10.0.0.1:443"
    assert (cluster.context, cluster.namespace) == ("in-cluster", "pipelines")


@pytest.mark.parametrize("command", ["status", "logs", "scale", "suspend", "resume", "delete"])
def test_a_cluster_that_is_not_there_is_code_69(command: str, config: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_kubeconfig(config, f"http://127.0.0.1:{port}")
    words = [command, "cartpole", *(["3"] if command == "scale" else []), "--namespace", "team"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 69
    assert result.stderr == (
        f"error: cluster here: http://127.0.0.1:{port}: Connection refused; "
        "is it running, and reachable from here?\n"
    )


def test_without_the_extra_the_command_says_what_to_install(config: Path) -> None:
    program = (
        "import sys; sys.modules['kubernetes'] = None; sys.argv[1:] = ['delete', 'x']\n"
        "from asyncrl.cli.main import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 2
    line = (
        "error: kubernetes: not installed here; `pip install '.[cluster]'` in a checkout of "
        "asyncrl\n"
    )
    assert result.stderr == line
