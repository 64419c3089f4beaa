# The user's commands: make demo, make test. A developer's: make check, make bench. See CONTRIBUTING.md.
# All set-up happens here, in .venv, with nothing but Python 3.11 or later, its venv module, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Leave some of the machine to PostgreSQL, which the tests keep busy. A quick run is short enough to take it all, and as
# most tests wait for something most of the time, that takes three workers for each processor.
# Whoever has finished its part takes over from others (worksteal): else the last one works on alone for minutes.
WORKERS ?= $(if $(THOROUGH)$(filter true,$(CI)),3,6)
# What pytest has made of the tests' assertions is kept: to make it takes five seconds.
unexport PYTHONDONTWRITEBYTECODE
RUNS ?= 100
SECONDS ?= 60
PG ?= 16

.PHONY: demo test test-pg19 test-images tools test-tools requirements check format bench bench-peers bench-images folder dist test-pythons audit publish soak fuzz screenshots recording site publish-site clean

demo: $(VENV)/demo.done  ## three replicas race on an embedded PostgreSQL
	$(BIN)/python -m demo

test: $(VENV)/assertions.done  ## against real servers; THOROUGH=1 or CI=true for all of it, TESTS=tests/test_lock.py for a part
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not text" --ignore=tests/images --ignore=tests/tools $(if $(THOROUGH),--thorough) $(TESTS)

test-pg19: $(VENV)/test.done  ## install PostgreSQL 19 for the tests, by mmdebstrap, and run them against it
	.ci/install-postgresql-19
	ENTRYPOINT_TEST_PG=19 $(MAKE) test

test-images: $(VENV)/test.done  ## the container images, with an engine of our own; needs root, see CONTRIBUTING.md
	$(BIN)/python -m pytest $(or $(TESTS),tests/images)

tools: $(VENV)/test.done  ## the migration tools that test-tools needs, into .tools; QUICK=1: those that take seconds
	$(BIN)/python -m tests.tools.install $(if $(QUICK),--quick)

test-tools: tools  ## other migration tools make migrations and a history, and ours goes on; see CONTRIBUTING.md
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(or $(TESTS),tests/tools)

check: $(VENV)/check.done $(VENV)/test.done  ## types, lint, format, and the tests that only read texts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy compose/shop/version1
	$(BIN)/mypy compose/shop/version2
	$(BIN)/mypy compose/shop/version3
	$(BIN)/python -m pytest -q -n $(WORKERS) -m text --ignore=tests/images --ignore=tests/tools

format: $(VENV)/check.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/test.done  ## measure and print; see docs/benchmarks.md
	$(BIN)/python -m benchmarks $(BENCH)

bench-peers: $(VENV)/test.done  ## install what `make bench` measures beside, into benchmarks/.peers
	$(BIN)/python -m benchmarks.peers install

bench-images: $(VENV)/test.done  ## measure the container images; needs what test-images needs
	$(BIN)/python -m tests.images.measure $(BENCH)

# The packer looks at an installation that is not editable, so it has an environment of its own.
folder:  ## the self-contained folder, with this machine's Python, in build/folder; see docs/folder.md
	$(PYTHON) -m venv --clear build/packer
	build/packer/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements/folder.txt
	rm -rf build/folder build/lib
	build/packer/bin/python -m pip install --quiet --disable-pip-version-check .
	find build/packer -name 'pgparse*.so' -exec strip --strip-unneeded {} +
	build/packer/bin/python -I packaging/folder.py --quiet build_exe --build-exe build/folder

# An environment of its own, with pinned packages: what makes a release is not what happens to be newest today.
RELEASE := build/release/bin/python -m release

dist: build/release/done  ## build and check what is released, into dist/; TAG=v1.2.3: only if that is the version
	$(if $(TAG),$(RELEASE) tag $(TAG))
	$(RELEASE) dist

test-pythons: build/release/done  ## a part of the tests with each Python from 3.11 to 3.14 that is here; TESTS=… for another part
	$(RELEASE) pythons $(TESTS)

audit: build/release/done  ## the workflows, and known vulnerabilities in what is pinned; STRICT=1: not being able to tell is an error
	build/release/bin/zizmor --offline --quiet --min-severity medium .github
	$(RELEASE) audit $(if $(STRICT),--strict)

publish: build/release/done  ## sign and upload what is in dist/; only for CI, by a tag
	build/release/bin/python -m pypi_attestations sign dist/*.whl dist/*.tar.gz
	build/release/bin/python -m sigstore sign dist/SHA256SUMS
	build/release/bin/python -m twine upload --non-interactive --attestations dist/*.whl dist/*.tar.gz dist/*.attestation

soak: $(VENV)/test.done  ## random faults at random moments: make soak RUNS=1000 SOAK="--pg 18 --pooler"
	$(BIN)/python -m tests.faults.soak --runs $(RUNS) --workers $(WORKERS) $(SOAK)

fuzz: $(VENV)/test.done  ## random SQL, read by us and by a server: make fuzz SECONDS=900 SEED=7 PG=18
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed "$(SEED)" --pg $(PG)

requirements: $(VENV)/requirements.done  ## renew the pinned requirements of the images
	$(BIN)/python requirements/renew.py

screenshots: $(VENV)/test.done  ## the pictures in docs/admin-page.md, by chromium, and of every command
	$(BIN)/python -m tests.browser.screenshots
	PYTHONPATH=tests $(BIN)/python -m tests.kit.pictures

recording: $(VENV)/demo.done  ## docs/images/demo.svg, which the README shows
	$(BIN)/python -m demo.recording

# An environment of its own: nothing of it is needed to run or to test the program.
site: build/site-env/done  ## the documentation as a site, into build/site; a broken link or anchor is an error
	build/site-env/bin/python -m release.site build

publish-site: site  ## push build/site to a branch that a forge serves as pages: REMOTE=origin BRANCH=gh-pages
	build/site-env/bin/python -m release.site publish --remote $(or $(REMOTE),origin) --branch $(or $(BRANCH),gh-pages)

clean:
	rm -rf $(VENV) build dist *.egg-info

build/release/done: requirements/release.txt requirements/build.txt
	$(PYTHON) -m venv --clear build/release
	build/release/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary=:all: --requirement requirements/release.txt --requirement requirements/build.txt
	@touch $@

build/site-env/done: requirements/site.txt
	$(PYTHON) -m venv --clear build/site-env
	build/site-env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--only-binary=:all: --requirement requirements/site.txt
	@touch $@

$(VENV)/python.done:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Otherwise each worker of the first run would do it: all of them collect all tests.
$(VENV)/assertions.done: $(VENV)/test.done
	-@ls tests/test_*.py tests/*/test_*.py | xargs -P 2 -n 90 $(BIN)/python -m pytest --collect-only -qq >/dev/null
	@touch $@

$(VENV)/%.done: $(VENV)/python.done pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
