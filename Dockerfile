# A base image for applications: Python slim, this program, and nothing else. docs/image.md explains how to use it, what
# it contains, and why it is built like this.
#
#     docker build --tag pg-entrypoint .
#     docker build --tag pg-entrypoint:full --target full .        # with pg_dump and the status service
#     docker build --tag pg-entrypoint:folder --target folder .    # to copy into images without Python
#
# pip uses two optional secrets, which leave no trace in the image: `--secret id=ca,src=…`, certificates to trust, and
# `--secret id=pip,src=…`, a pip.conf that names another index.

# The newest Python for which everything we need has wheels. Any image with Python 3.11 or later and apt works.
ARG BASE=python:3.14-slim
# The Python in the self-contained folder.
ARG FOLDER_BASE=python:3.13-slim


FROM ${BASE} AS builder
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /usr/local/lib/pg-entrypoint
COPY requirements/build.txt requirements/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    tools/bin/pip install --require-hashes --only-binary=:all: --requirement requirements/build.txt
COPY requirements/image.txt requirements/
# --no-deps: the file is complete; it omits what requirements/renew.py lists on purpose. Symbols that are not needed at
# run time are stripped, as in Debian's packages: they are three quarters of one module.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    tools/bin/pip --python /usr/local/lib/pg-entrypoint install --no-deps --no-compile \
        --require-hashes --only-binary=:all: --requirement requirements/image.txt \
    && find /usr/local/lib/pg-entrypoint -name '*.so' -exec strip --strip-unneeded {} +


# The program itself: a wheel, unpacked into the virtual environment.
FROM builder AS program
COPY LICENSE README.md pyproject.toml ./
COPY bin bin
COPY entrypoint entrypoint
# Install by name: pip would record a path.
RUN SOURCE_DATE_EPOCH=315532800 tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /usr/local/lib/pg-entrypoint install --no-deps --no-compile \
        --no-index --find-links dist pg-entrypoint
# -I: variables for the application's Python (PYTHONPATH, PYTHONHOME) must not affect this one.
RUN sed -i '1s/$/ -I/' /usr/local/lib/pg-entrypoint/bin/entrypoint
# Put the modules of a start into one file.
COPY packaging packaging
RUN /usr/local/lib/pg-entrypoint/bin/python -IB packaging/bundle.py /usr/local/lib/pg-entrypoint


FROM program AS program-full
COPY requirements/full.txt requirements/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    tools/bin/pip --python /usr/local/lib/pg-entrypoint install --no-deps --no-compile \
        --require-hashes --only-binary=:all: --requirement requirements/full.txt \
    && find /usr/local/lib/pg-entrypoint -name '*.so' -exec strip --strip-unneeded {} + \
    && /usr/local/lib/pg-entrypoint/bin/python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/pg-entrypoint/lib


# For images without Python: everything in one folder, see docs/folder.md. It starts fastest with a Python whose ctypes
# imports little. The folder also contains this image's glibc, and code that starts with it, from a few hundred lines of
# C.
FROM ${FOLDER_BASE} AS packer
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv venv
COPY requirements/folder.txt requirements/image.txt requirements/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -e /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    for file in folder image; do \
        venv/bin/pip install --no-deps --no-compile --require-hashes --only-binary=:all: \
            --requirement "requirements/$file.txt" || exit; \
    done \
    && find venv -name 'pgparse*.so' -exec strip --strip-unneeded {} +
COPY packaging packaging
COPY --from=program /build/dist dist
RUN venv/bin/pip install --no-deps --no-compile --no-index --find-links dist pg-entrypoint \
    && venv/bin/python -I packaging/folder.py --quiet build_exe --build-exe /opt/entrypoint


# Not to be started, only to copy from: COPY --from=pg-entrypoint:folder /opt/entrypoint /opt/entrypoint
FROM scratch AS folder
COPY --from=packer /opt/entrypoint /opt/entrypoint


# The common part of both images.
FROM ${BASE} AS common
# Remove what only installs other packages: pip, and the copy of it in the module ensurepip.
RUN if python3 -Bc 'import pip' 2>/dev/null; then python3 -Bm pip uninstall --yes --root-user-action=ignore pip; fi \
    && rm -rf "$(python3 -Bc 'import os, ensurepip; print(os.path.dirname(ensurepip.__file__))')" \
        /usr/share/python-wheels /root/.cache \
    && ln -s ../lib/pg-entrypoint/bin/entrypoint /usr/local/bin/entrypoint
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="pg-entrypoint" \
      org.opencontainers.image.description="Wait for PostgreSQL, bring its schema up to date exactly once, and become the application." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The program looks for `migrations` here.
WORKDIR /app
STOPSIGNAL SIGTERM
ENTRYPOINT ["entrypoint", "run", "--"]


# Only two programs of the package, 1 MB. The rest needs Perl, and is 53 MB.
FROM ${BASE} AS client
# At least as new as the server to back up.
ARG POSTGRES_MAJOR=17
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-${POSTGRES_MAJOR} \
    && mkdir -p /client/usr/lib/postgresql/${POSTGRES_MAJOR}/bin /client/usr/share/doc \
    && cp /usr/lib/postgresql/${POSTGRES_MAJOR}/bin/pg_dump /usr/lib/postgresql/${POSTGRES_MAJOR}/bin/pg_restore \
        /client/usr/lib/postgresql/${POSTGRES_MAJOR}/bin \
    && cp -r /usr/share/doc/postgresql-client-${POSTGRES_MAJOR} /client/usr/share/doc


FROM common AS full
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libpq5 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/apt /var/log/dpkg.log
COPY --from=client /client /
COPY --from=program-full /usr/local/lib/pg-entrypoint /usr/local/lib/pg-entrypoint
RUN --mount=type=bind,source=docker,target=/mnt ["/usr/local/lib/pg-entrypoint/bin/python", "-IB", "/mnt/bytecode.py"]
# A number, so that Kubernetes can see that it is not root. Any other number works, too.
USER 65532:65532


# The default target.
FROM common AS image
COPY --from=program /usr/local/lib/pg-entrypoint /usr/local/lib/pg-entrypoint
RUN --mount=type=bind,source=docker,target=/mnt ["/usr/local/lib/pg-entrypoint/bin/python", "-IB", "/mnt/bytecode.py"]
USER 65532:65532
