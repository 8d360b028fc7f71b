# Two images: `docker build --target cpu .` and `docker build --target gpu .` (the default).
# See docs/kubernetes.md; docker/install.sh holds the steps, tests/docker checks and runs them.

# Both stand on the same base. A CUDA image is not needed: torch and DALI bring their CUDA libraries,
# the NVIDIA container runtime brings the driver's, and nothing is compiled at run time (the
# launcher keeps DeepSpeed from building operators), so neither nvcc nor g++ is in an image.
# The digest is of the multi-platform index; to move on: docker buildx imagetools inspect TAG.
ARG PYTHON=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# wget: KubeRay asks Ray's processes for their health with it. Debian keeps only its newest version.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 1000 gcg \
 && useradd --uid 1000 --gid 1000 --create-home --home-dir /home/gcg gcg
ENV HOME=/home/gcg \
    USER=gcg \
    PATH=/opt/gcg/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
LABEL org.opencontainers.image.title="gcg-train" \
      org.opencontainers.image.description="Trains video question answering models that find the moment before they answer" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# A second or so; it neither imports torch nor touches a GPU that trains. Kubernetes does not look
# at it: there, Ray's own probes tell whether a Pod is well.
HEALTHCHECK --interval=60s --timeout=30s --start-period=30s --retries=3 \
  CMD ["gcg", "doctor", "--only", "packages,memory,shm,limits"]
CMD ["gcg", "--help"]

FROM base AS environment
WORKDIR /src
COPY docker/ docker/
COPY pyproject.toml constraints.txt ./
RUN docker/install.sh environment /opt/gcg

# More extras of pyproject.toml: --build-arg EXTRAS="tracking plot".
FROM environment AS dependencies-cpu
ARG EXTRAS=""
# hadolint ignore=SC2086
RUN docker/install.sh dependencies /opt/gcg cpu ${EXTRAS}

FROM environment AS dependencies-gpu
ARG EXTRAS=""
# hadolint ignore=SC2086
RUN docker/install.sh dependencies /opt/gcg gpu ${EXTRAS}

FROM environment AS project
COPY . .
RUN docker/install.sh wheel /dist

# What changes with every commit is the last and smallest layer. The environment belongs to root:
# user 1000, who runs it, cannot write there.
FROM base AS cpu
COPY --from=dependencies-cpu /opt/gcg /opt/gcg
RUN --mount=type=bind,from=project,source=/src,target=/src \
    --mount=type=bind,from=project,source=/dist,target=/dist \
    /src/docker/install.sh project /opt/gcg /dist
USER 1000:1000
WORKDIR /home/gcg

FROM base AS gpu
COPY --from=dependencies-gpu /opt/gcg /opt/gcg
RUN --mount=type=bind,from=project,source=/src,target=/src \
    --mount=type=bind,from=project,source=/dist,target=/dist \
    /src/docker/install.sh project /opt/gcg /dist
# video: NVDEC, for data.decoder: dali.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 1000:1000
WORKDIR /home/gcg
