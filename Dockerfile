# The service, from an exported bundle, without any training framework (docs/serving.md):
#
#   docker build -t headstart .
#   docker run -p 8000:8000 -e HEADSTART_TOKEN=... -v "$PWD/exports/photos-openvino:/bundle:ro" headstart

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HEADSTART_CACHE=/tmp/headstart
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[serve]" && rm -r /wheels
# A number, so that a cluster can see that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
# All addresses of the container: the service does not start without HEADSTART_TOKEN.
CMD ["headstart", "serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]
