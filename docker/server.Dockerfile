# MLServer with onnxruntime on CPU, and one repository of models. In the repository's root:
#   docker build -f docker/server.Dockerfile -t onnxjvp-server .
#   onnxjvp package model.onnx --mlserver repository
#   docker run --read-only --tmpfs /tmp --memory 2g --pids-limit 256 --cap-drop ALL \
#     --security-opt no-new-privileges -p 127.0.0.1:8080:8080 \
#     -v "$PWD/repository:/models:ro" onnxjvp-server

FROM python:3.11.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY onnxjvp ./onnxjvp
RUN python -m venv /opt/onnxjvp \
    && /opt/onnxjvp/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.11.13-slim-bookworm
COPY --from=build /opt/onnxjvp /opt/onnxjvp
RUN useradd --no-log-init --uid 10001 --no-create-home --shell /usr/sbin/nologin onnxjvp
ENV PATH=/opt/onnxjvp/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /tmp
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "onnxjvp.serving", "/models", "--host", "0.0.0.0"]
