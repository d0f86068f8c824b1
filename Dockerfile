# One program and its demo model in a small image.
#
#   docker build -t nibble .                              CPU
#   docker build -t nibble:cuda --target cuda .           Hopper GPUs; needs no CUDA libraries, only the driver that the runtime brings
#   docker build -t nibble-router --target router .       sglang-router, in front of several replicas (docs/guide/replicas.md)
#   --build-arg FFMPEG=1                                  also reads sound and video (about 210 MB more)
#
#   docker run --rm -p 30000:30000 nibble
#   docker run --rm --gpus all -p 30000:30000 -v ~/.cache/huggingface:/cache:ro nibble:cuda serve --model-path ORG/NAME --host 0.0.0.0

FROM debian:bookworm-slim AS build
WORKDIR /src
COPY tools/packages-debian.txt tools/
RUN apt-get update -qq && sed '/only for the tests/,$d' tools/packages-debian.txt | grep -v '^#' | \
    DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -qq --no-install-recommends
COPY . .
RUN cmake --preset release && cmake --build build/release --target nibble && \
    cmake --install build/release --prefix /opt/nibble --strip

# NVIDIA's own packages for Debian 12: the compiler and the static runtime.
FROM build AS build-cuda
RUN curl -fsSLo /tmp/keyring.deb https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb && dpkg -i /tmp/keyring.deb && \
    apt-get update -qq && apt-get install -y -qq --no-install-recommends cuda-nvcc-13-0 cuda-crt-13-0 cuda-cccl-13-0 cuda-cudart-dev-13-0
ENV PATH=/usr/local/cuda/bin:$PATH
RUN cmake --preset release -DNIBBLE_CUDA=ON && cmake --build build/release --target nibble && \
    rm -rf /opt/nibble && cmake --install build/release --prefix /opt/nibble --strip

FROM debian:bookworm-slim AS base
ARG FFMPEG=
RUN if [ -n "$FFMPEG" ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends libavformat59 libavcodec59 libswscale6 && rm -rf /var/lib/apt/lists/*; fi && \
    useradd --system --create-home nibble
ENV PATH=/opt/nibble/bin:$PATH HF_HOME=/cache
EXPOSE 30000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/30000 && printf 'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '"]
USER nibble
ENTRYPOINT ["nibble"]
CMD ["serve", "--model-path", "demo", "--host", "0.0.0.0"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/nibble /opt/nibble

FROM python:3.12-slim-bookworm AS router
COPY tools/requirements-router.txt /tmp/
RUN pip install --no-cache-dir -r /tmp/requirements-router.txt && useradd --system --create-home router
USER router
EXPOSE 30000
ENTRYPOINT ["sglang-router", "launch", "--host", "0.0.0.0", "--port", "30000"]

# The last stage is what is built without --target.
FROM base AS cpu
COPY --from=build /opt/nibble /opt/nibble
