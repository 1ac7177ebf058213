"""Finds the cluster that a person means: a context of the kubeconfig, or the cluster around us."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncrl.errors import JobError, install
from asyncrl_api.fields import closest

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Cluster:
    """An API server and the credentials for it; `namespace` is what the context names."""

    context: str
    namespace: str
    client: ApiClient

    @property
    def address(self) -> str:
        """The URL of the API server."""
        return str(self.client.configuration.host)


def find_cluster(context: str | None = None) -> Cluster:
    """The cluster of a context, by default the current one; in a pod without a kubeconfig, its own.

    $KUBECONFIG, or ~/.kube/config, as kubectl has it. Raises JobError naming file and remedy.
    """
    try:
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.config import ConfigException, load_incluster_config
    except ImportError as error:
        raise JobError(f"kubernetes: not installed here; {install('cluster')}") from error
    configuration = Configuration()
    # Retries are the caller's: its deadline holds for all attempts together.
    configuration.retries = False
    files = _files()
    if not any(path.is_file() for path in files):
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            try:
                load_incluster_config(client_configuration=configuration)
            except ConfigException as error:
                raise JobError(
                    f"no kubeconfig, and no service account of this pod ({error}); set "
                    "automountServiceAccountToken: true, or KUBECONFIG"
                ) from error
            return Cluster("in-cluster", _own_namespace(), ApiClient(configuration))
        shown = os.pathsep.join(str(path) for path in files)
        raise JobError(f"{shown}: no kubeconfig here; set KUBECONFIG to the file of your cluster")
    name, namespace = _load(files, context, configuration)
    return Cluster(name, namespace, ApiClient(configuration))


def _files() -> list[Path]:
    text = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return [Path(part).expanduser() for part in text.split(os.pathsep) if part]


def _load(files: list[Path], context: str | None, configuration: Any) -> tuple[str, str]:
    """Fill the configuration from the files; the context in use and its namespace."""
    import yaml
    from kubernetes.config import ConfigException, load_kube_config
    from kubernetes.config.kube_config import KubeConfigMerger

    joined = os.pathsep.join(str(path) for path in files)
    try:
        merged = KubeConfigMerger(joined).config.value
        contexts = {str(entry["name"]): entry["context"] for entry in merged["contexts"]}
        name = context or merged.get("current-context") or ""
        if name not in contexts:
            raise JobError(_unknown_context(joined, name, list(contexts)))
        load_kube_config(
            config_file=joined,
            context=name,
            client_configuration=configuration,
            persist_config=False,
        )
        namespace = contexts[name].value.get("namespace") if contexts[name] else None
    except (ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise JobError(f"{joined}: {cause}; put the kubeconfig right, or set KUBECONFIG") from error
    return name, namespace or DEFAULT_NAMESPACE


def _unknown_context(files: str, name: str, known: list[str]) -> str:
    if not known:
        return f"{files}: has no context; set KUBECONFIG to the file of your cluster"
    choice = ", ".join(sorted(known)[:8])
    if not name:
        return f"{files}: has no current context; choose one with --context: {choice}"
    match = closest(name, known)
    remedy = f"did you mean '{match}'?" if match else f"use one of {choice}"
    return f"--context: '{name}' is not in {files}; {remedy}"


def _own_namespace() -> str:
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE
