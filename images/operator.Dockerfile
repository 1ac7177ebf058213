# The operator. Build from the root of the repository:
#   docker build -f images/operator.Dockerfile -t asyncrl-operator .
# Any base with Python 3.11 to 3.13 and its venv module will do.
ARG BASE=docker.io/library/python:3.11-slim

# The versions to install, and nothing else of the project: so other changes keep the large layer.
FROM ${BASE} AS requirements
RUN python3 -m venv /tmp/installer && /tmp/installer/bin/pip install --quiet --no-cache-dir uv
COPY pyproject.toml constraints.txt /
RUN export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt && \
    /tmp/installer/bin/uv pip compile --quiet --no-cache --python python3 --extra operator \
        --no-header --no-annotate --constraint /constraints.txt --output-file /requirements.txt /pyproject.toml

FROM ${BASE}
COPY --from=requirements /requirements.txt /opt/asyncrl/
# Bytecode is made here, because the root file system is read-only later.
RUN export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt && \
    python3 -m venv /tmp/installer && \
    /tmp/installer/bin/pip install --quiet --no-cache-dir uv && \
    python3 -m venv --without-pip /opt/asyncrl && \
    /tmp/installer/bin/uv pip install --quiet --no-cache --python /opt/asyncrl/bin/python --compile-bytecode \
        --requirement /opt/asyncrl/requirements.txt && \
    rm -rf /tmp/installer && \
    echo 'asyncrl:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd

ENV PATH=/opt/asyncrl/bin:$PATH \
    PYTHONPATH=/opt/asyncrl/code \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
COPY crds/asyncrl_api /opt/asyncrl/code/asyncrl_api
COPY operator/asyncrl_operator /opt/asyncrl/code/asyncrl_operator
RUN python -m compileall -q /opt/asyncrl/code
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "asyncrl_operator"]
