# Two stages: build the wheel, then install nothing but it. The process runs as an unprivileged user.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN pip install --no-cache-dir build==1.3.0
COPY pyproject.toml README.md LICENSE ./
COPY platform platform
COPY etl etl
COPY modeling modeling
COPY migrations migrations
RUN python -m build --wheel --outdir /wheels

FROM python:3.11-slim-bookworm
ARG TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir ${TORCH} \
 && pip install --no-cache-dir --require-hashes --no-deps -r /tmp/constraints.txt \
 && pip install --no-cache-dir --no-deps /wheels/*.whl \
 && rm -rf /wheels /tmp/constraints.txt \
 && useradd --create-home --uid 1000 presage \
 && install -d -o presage -g presage /workspace
USER presage
ENV PRESAGE_WORKSPACE=/workspace
VOLUME /workspace
ENTRYPOINT ["platform"]
CMD ["--help"]
