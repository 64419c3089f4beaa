# The image that applications' images are built on: Python slim, this program, and nothing else. docs/image.md says how
# to use it, what is in it, and why it is made like this.
#
#     docker build --tag pg-entrypoint .
#     docker build --tag pg-entrypoint:full --target full .        # with pg_dump and the status service
#     docker build --tag pg-entrypoint:folder --target folder .    # to be copied into images without Python
#
# Two secrets, both optional, reach pip and leave no trace: `--secret id=ca,src=…`, certificates to trust, and
# `--secret id=pip,src=…`, a pip.conf that names another index.

# The newest Python with wheels of everything we need. Any other with Python 3.11 or later and apt will do.
ARG BASE=python:3.14-slim
# The Python that goes into the self-contained folder.
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
# --no-deps: the file is complete, and leaves out on purpose what requirements/renew.py names. Symbols that nobody needs
# at run time go, as from Debian's packages: of one module they are three quarters.
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
# Not by its path, which pip would record.
RUN SOURCE_DATE_EPOCH=315532800 tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /usr/local/lib/pg-entrypoint install --no-deps --no-compile \
        --no-index --find-links dist pg-entrypoint
# -I: what the application's environment says to its own Python (PYTHONPATH, PYTHONHOME) is not for this one.
RUN sed -i '1s/$/ -I/' /usr/local/lib/pg-entrypoint/bin/entrypoint
# What a start imports, in one file.
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


# For images without Python: all of it in one folder, docs/folder.md. It starts fastest with the Pythons whose ctypes
# imports least. It takes this image's glibc along, and a few hundred lines of C that start with it.
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


# Not an image to start, but one to copy from: COPY --from=pg-entrypoint:folder /opt/entrypoint /opt/entrypoint
FROM scratch AS folder
COPY --from=packer /opt/entrypoint /opt/entrypoint


# What both images have in common.
FROM ${BASE} AS common
# What is there only to install other things: pip, and the copy of it that the module ensurepip carries.
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
# `migrations` is looked for here.
WORKDIR /app
STOPSIGNAL SIGTERM
ENTRYPOINT ["entrypoint", "run", "--"]


# Two programs of the package, 1 MB: the rest of it brings Perl, and is 53 MB.
FROM ${BASE} AS client
# At least as new as the server that is to be backed up.
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
# A number, so that Kubernetes can see that it is not root; any other will do as well.
USER 65532:65532


# The default.
FROM common AS image
COPY --from=program /usr/local/lib/pg-entrypoint /usr/local/lib/pg-entrypoint
RUN --mount=type=bind,source=docker,target=/mnt ["/usr/local/lib/pg-entrypoint/bin/python", "-IB", "/mnt/bytecode.py"]
USER 65532:65532
