# The command line with onnxruntime on CPU. In the repository's root:
#   docker build -f docker/tool.Dockerfile -t onnxjvp .
#   docker run --rm --read-only --tmpfs /tmp --network none -v "$PWD:/work" --user "$(id -u)" \
#     onnxjvp rewrite model.onnx --emit jvp

FROM python:3.11.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY onnxjvp ./onnxjvp
RUN python -m venv /opt/onnxjvp \
    && /opt/onnxjvp/bin/pip install --no-cache-dir ".[cpu]"

FROM python:3.11.13-slim-bookworm
COPY --from=build /opt/onnxjvp /opt/onnxjvp
RUN useradd --no-log-init --uid 10001 --no-create-home --shell /usr/sbin/nologin onnxjvp
ENV PATH=/opt/onnxjvp/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /work
HEALTHCHECK NONE
ENTRYPOINT ["onnxjvp"]
CMD ["--help"]
